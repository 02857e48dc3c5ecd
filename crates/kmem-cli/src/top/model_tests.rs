use super::*;
use crate::report::tests::SAMPLE;

/// A time that tests call now.
pub(crate) fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)
}

/// The sample report, with its numbers of allocations raised, written so many milliseconds ago.
pub(crate) fn look(more: u64, ago: u64) -> Look {
    let mut report = Report::parse(SAMPLE).unwrap();
    report.caches[0].allocs += more;
    let written = now() - Duration::from_millis(ago);
    Look { table: Table { report, written }, resident: Some(9 << 20) }
}

#[test]
fn rates_come_from_two_tables_and_the_time_between_them() {
    let mut model = Model::new();
    model.update(now(), vec![(4711, look(0, 1500))], None);
    let watched = |model: &Model| model.get(4711).unwrap().clone();
    assert_eq!((watched(&model).rate(now()), watched(&model).cache_rows(now())[0].rate), (None, None));
    model.update(now(), vec![(4711, look(1000, 500))], None);
    assert_eq!(watched(&model).rate(now()), Some(1000.0));
    let rows = watched(&model).cache_rows(now());
    let rates: Vec<_> = rows.iter().map(|row| (row.cache.name.as_str(), row.rate)).collect();
    let expected = [("kmalloc-64", Some(1000.0)), ("kmalloc-1k", Some(0.0)), ("kmalloc-8k", Some(0.0))];
    assert_eq!(rates, expected, "a cache that was never used has no row");

    // The same table again: what was known stays, until the table is old.
    model.update(now(), vec![(4711, look(1000, 500))], None);
    assert_eq!(watched(&model).rate(now() + Duration::from_millis(1500)), Some(1000.0));
    assert_eq!(watched(&model).rate(now() + Duration::from_millis(1501)), None);
    model.update(now(), vec![(4711, look(1500, 400))], None);
    assert_eq!(watched(&model).rate(now()).map(f64::round), Some(5000.0));
}

#[test]
fn counters_that_fall_and_clocks_that_go_back_make_no_rate() {
    let mut model = Model::new();
    model.update(now(), vec![(1, look(1000, 1500))], None);
    model.update(now(), vec![(1, look(0, 500))], None);
    assert_eq!(model.get(1).unwrap().rate(now()), Some(0.0));
    model.update(now(), vec![(1, look(9000, 1000))], None);
    assert_eq!(model.get(1).unwrap().rate(now()), None);
    assert_eq!(model.get(1).unwrap().age(now() - Duration::from_secs(60)), Duration::ZERO);
}

#[test]
fn a_cache_that_is_new_counts_from_nothing() {
    let mut model = Model::new();
    let mut first = look(0, 1000);
    first.table.report.caches.remove(1);
    model.update(now(), vec![(1, first)], None);
    model.update(now(), vec![(1, look(0, 0))], None);
    assert_eq!(model.get(1).unwrap().cache_rows(now())[1].rate, Some(16.0));
}

#[test]
fn who_ended_is_forgotten_unless_kept() {
    let mut model = Model::new();
    let both = || vec![(1, look(0, 0)), (2, look(0, 0))];
    model.update(now(), both(), None);
    model.update(now(), vec![], Some(2));
    assert!(model.get(1).is_none() && model.get(2).unwrap().ended);
    assert_eq!(model.running().count(), 0);
    model.update(now(), both(), Some(2));
    assert!(!model.get(2).unwrap().ended);
    assert_eq!(model.running().count(), 2);
}

#[test]
fn a_process_is_added_up() {
    let watched = Watched::new(4711, look(0, 700));
    let row = watched.process_row(now());
    let expected = ProcessRow {
        pid: 4711,
        name: "my prog".into(),
        engine: "slub".into(),
        resident: Some(9 << 20),
        in_use: 100 * 64 + 16 * 1024 + 81_920,
        held: 148 * 4096,
        free: 300 * 4096,
        peak: 700 * 4096 + (8 << 20),
        rate: None,
        age: Duration::from_millis(700),
        ended: false,
    };
    assert_eq!(row, expected);
}

#[test]
fn the_engine_is_named_with_build_and_letters() {
    let mut report = Report::parse(SAMPLE).unwrap();
    report.caches[1].flags |= 0x100;
    report.caches[2].flags |= 0x400 | 0x800 | 0x1_0000;
    assert_eq!(engine(&report), "slub FZPU");
    let hardened = Report { build: "hardened".into(), engine: "slab".into(), ..Report::default() };
    assert_eq!(engine(&hardened), "slab hardened");
}
