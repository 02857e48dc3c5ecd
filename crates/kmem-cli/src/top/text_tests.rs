use super::*;
use crate::report::tests::SAMPLE;
use crate::top::model::tests::{look, now};

const FORM: Form = Form { paint: Paint { on: false }, columns: None, top: 0 };

#[test]
fn one_process_in_full() {
    let mut model = Model::new();
    model.update(now(), vec![(4711, look(0, 1500))], None);
    model.update(now(), vec![(4711, look(2500, 500))], None);
    let app = App::new(Page::One(4711), None);
    let text = page(&app, &model, Form { top: 1, ..FORM });
    let expected = "\
my prog (pid 4711)
heap of 'my prog': engine slub, 2 CPUs, 1 node, CPU stacks by restartable sequences
blocks: 102K in use by the program, 592K held for them, RSS 9.0M
pages: 592K in use (peak 2.7M), 1.2M free and still resident, 8.0M fetched from the system
large: 2 runs of pages, 80.0K (peak 400K); huge: 0 mappings of their own, 0 (peak 8.0M)
guard: 12 samples (3 in use), 4 turns without one, 0 errors

CACHE        SIZE  IN USE  HELD  USE%  SLABS  BYTES  WASTE   PEAK   ALLOCS  ALLOCS/S  CPU%
kmalloc-1k  1,024      16    16   100      1  16.0K      0  16.0K       16         0   0.0
2 more                100   192  52.1      3  12.0K   5.8K         102,510     2,500  99.8
------------------------------------------------------------------------------------------
3 caches              116   208  55.8      4  28.0K   5.8K         102,526     2,500  99.7
";
    assert_eq!(text, expected, "\n{text}");
}

#[test]
fn an_old_table_and_an_ended_process_are_told() {
    let mut model = Model::new();
    model.update(now(), vec![(1, look(0, 12_300))], None);
    let title = |model: &Model| head(model.get(1).unwrap(), model.at())[0].clone();
    assert_eq!(title(&model), "my prog (pid 1), as of 12 s ago");
    model.update(now(), vec![(1, look(0, 2000))], None);
    assert_eq!(title(&model), "my prog (pid 1)");
    model.update(now(), vec![], Some(1));
    assert_eq!(title(&model), "my prog (pid 1), has ended: its last table");
}

#[test]
fn the_program_and_its_errors_are_named() {
    let mut model = Model::new();
    let mut found = look(0, 0);
    found.table.report.exe = "/usr/bin/my-program".into();
    found.table.report.errors = 1200;
    model.update(now(), vec![(1, found)], None);
    let lines = head(model.get(1).unwrap(), model.at());
    assert_eq!(lines[0], "/usr/bin/my-program (pid 1)");
    assert!(lines.iter().any(|line| line == "errors: 1,200 found so far"), "{lines:?}");
}

#[test]
fn what_a_process_has_not_is_left_out() {
    let mut model = Model::new();
    let mut bare = look(0, 0);
    let text: String =
        SAMPLE.lines().filter(|line| !line.starts_with("guard")).map(|line| format!("{line}\n")).collect();
    bare.table.report = crate::report::Report::parse(&text).unwrap();
    bare.table.report.large = Blocks::default();
    bare.table.report.huge = Blocks::default();
    bare.resident = None;
    model.update(now(), vec![(1, bare)], None);
    let lines = head(model.get(1).unwrap(), model.at());
    assert_eq!(lines.len(), 4, "{lines:?}");
    assert!(lines[2].ends_with("592K held for them"), "{lines:?}");
}

#[test]
fn the_list_is_a_table() {
    let mut model = Model::new();
    model.update(now(), vec![(4711, look(0, 400)), (12, look(5, 400))], None);
    let text = page(&App::new(Page::List, None), &model, FORM);
    let pids: Vec<_> = text.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(pids[..3], ["PID", "12", "4711"], "{text}");
    assert!(text.ends_with('\n') && text.contains("2 processes"));
}
