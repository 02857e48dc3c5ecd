use super::*;
use crate::report::Report;
use crate::report::tests::SAMPLE;
use crate::table::Paint;
use crate::top::model::Model;
use crate::top::model::tests::{look, now};

fn cache_rows() -> Vec<CacheRow> {
    let mut model = Model::new();
    model.update(now(), vec![(1, look(0, 1500))], None);
    model.update(now(), vec![(1, look(2500, 500))], None);
    let mut rows = model.get(1).unwrap().cache_rows(now());
    Sort::usual::<CacheRow>().apply(&mut rows);
    rows
}

fn text<R: Row>(rows: &[R], top: usize, width: Option<usize>) -> String {
    table(rows, Sort::usual::<R>(), top, width).0.render(Paint { on: false }, width)
}

#[test]
fn caches_in_full() {
    let expected = "\
CACHE        SIZE  IN USE  HELD  USE%  SLABS  BYTES  WASTE   PEAK   ALLOCS  ALLOCS/S  CPU%
kmalloc-1k  1,024      16    16   100      1  16.0K      0  16.0K       16         0   0.0
kmalloc-64     64     100   192  52.1      3  12.0K   5.8K  20.0K  102,500     2,500  99.8
kmalloc-8k  8,192       0     0     -      0      0      0  64.0K       10         0  80.0
------------------------------------------------------------------------------------------
3 caches              116   208  55.8      4  28.0K   5.8K         102,526     2,500  99.7
";
    assert_eq!(text(&cache_rows(), 0, None), expected);
}

#[test]
fn the_rest_is_added_up() {
    let text = text(&cache_rows(), 1, None);
    let rest: Vec<&str> = text.lines().nth(2).unwrap().split_whitespace().collect();
    assert_eq!(rest, ["2", "more", "100", "192", "52.1", "3", "12.0K", "5.8K", "102,510", "2,500", "99.8"]);
    assert!(text.lines().last().unwrap().starts_with("3 caches"));
}

#[test]
fn a_narrow_place_gets_fewer_columns() {
    let rows = cache_rows();
    let full = table(&rows, Sort::usual::<CacheRow>(), 0, None).0.least_width();
    for width in 20..=full + 1 {
        let (table, sorted) = table(&rows, Sort::usual::<CacheRow>(), 0, Some(width));
        let widest = table.lines(Some(width)).iter().map(|(_, line)| line.len()).max().unwrap();
        let fits = widest <= width;
        // What is never left out takes 37 characters.
        assert_eq!(fits, width >= 37, "{width}: {widest}");
        let titles = &table.lines(Some(width))[0].1;
        let place = table.place(sorted.unwrap(), Some(width));
        assert_eq!(titles[place].trim(), "BYTES", "{width}");
        assert_eq!(titles.contains("SLABS"), width >= full, "{width}");
    }
}

#[test]
fn every_column_sorts_and_has_a_key_of_its_own() {
    fn check<R: Row>(mut rows: Vec<R>) {
        let mut letters = std::collections::BTreeSet::new();
        for column in R::COLUMNS {
            // Keys that do something else on both pages.
            assert!(letters.insert(column.letter) && !"qspr? ".contains(column.letter), "{}", column.title);
            let sort = Sort::by::<R>(column.by).unwrap();
            sort.apply(&mut rows);
            let ordered = |rows: &[R], wanted: fn(Ordering) -> bool| {
                rows.is_sorted_by(|a, b| wanted((column.order)(a, b)))
            };
            assert!(ordered(&rows, Ordering::is_le), "{}", column.title);
            Sort { reversed: true, ..sort }.apply(&mut rows);
            assert!(ordered(&rows, Ordering::is_ge), "{}", column.title);
        }
        assert!(Sort::by::<R>(R::USUAL).is_some());
        let mut sort = Sort::usual::<R>();
        R::COLUMNS.iter().for_each(|_| sort = sort.next::<R>());
        assert_eq!(sort, Sort::usual::<R>(), "round");
    }
    check(cache_rows());
    let mut model = Model::new();
    model.update(now(), (1..4).map(|pid| (pid, look(u64::from(pid), u64::from(pid) * 900))).collect(), None);
    check(model.running().map(|watched| watched.process_row(now())).collect::<Vec<_>>());
}

#[test]
fn largest_first_and_the_unknown_last() {
    let mut rows = cache_rows();
    rows[1].rate = None;
    Sort::by::<CacheRow>(SortBy::Rate).unwrap().apply(&mut rows);
    assert_eq!(rows.last().unwrap().rate, None);
    Sort::by::<CacheRow>(SortBy::Use).unwrap().apply(&mut rows);
    let names: Vec<_> = rows.iter().map(|row| row.cache.name.as_str()).collect();
    assert_eq!(names, ["kmalloc-1k", "kmalloc-64", "kmalloc-8k"]);
}

#[test]
fn processes_in_full() {
    let mut model = Model::new();
    let mut old = look(0, 12_400);
    old.resident = None;
    old.table.report =
        Report { comm: "sh".into(), build: "hardened".into(), ..Report::parse(SAMPLE).unwrap() };
    model.update(now(), vec![(7, look(0, 1400)), (4711, old.clone())], None);
    model.update(now(), vec![(7, look(1000, 400)), (4711, old)], None);
    let rows: Vec<_> = model.running().map(|watched| watched.process_row(now())).collect();
    let expected = "\
\x20PID  NAME         ENGINE          RSS  IN USE  HELD  FREE   PEAK  ALLOCS/S    AGE
   7  my prog      slub           9.0M    102K  592K  1.2M  10.7M     1,000  0.4 s
4711  sh           slub hardened     -    102K  592K  1.2M  10.7M         -   12 s
----------------------------------------------------------------------------------
      2 processes                         204K  1.2M  2.3M            1,000
";
    assert_eq!(text(&rows, 0, None), expected, "\n{}", text(&rows, 0, None));
    let (table, _) = table(&rows, Sort::usual::<ProcessRow>(), 0, None);
    let tones: Vec<_> = table.lines(None).iter().map(|(part, _)| *part).skip(1).take(2).collect();
    use crate::table::Part;
    assert_eq!(tones, [Part::Row(Tone::Plain), Part::Row(Tone::Dim)], "an old table");
}

#[test]
fn ages_are_short() {
    for (millis, text) in [
        (0, "0.0 s"),
        (9_999, "9.9 s"),
        (10_000, "10 s"),
        (119_999, "119 s"),
        (120_000, "2 min"),
        (7_199_999, "119 min"),
        (7_200_000, "2 h"),
        (172_800_000, "2 d"),
    ] {
        assert_eq!(age(Duration::from_millis(millis)), text);
    }
}
