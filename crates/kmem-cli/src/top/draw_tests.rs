use super::*;
use crate::top::app::After;
use crate::top::keys::Key;
use crate::top::model::tests::{look, now};
use ratatui::Terminal;
use ratatui::backend::TestBackend;

/// What a screen of this size shows.
fn screen(app: &mut App, model: &Model, size: (u16, u16), trouble: Option<&str>) -> TestBackend {
    let mut terminal = Terminal::new(TestBackend::new(size.0, size.1)).unwrap();
    terminal.draw(|frame| draw(frame, app, model, trouble)).unwrap();
    terminal.backend().clone()
}

fn lines(backend: &TestBackend) -> Vec<String> {
    let buffer = backend.buffer();
    let width = usize::from(buffer.area.width);
    let rows = buffer.content().chunks(width.max(1));
    rows.map(|row| row.iter().map(|cell| cell.symbol()).collect::<String>().trim_end().to_owned()).collect()
}

fn style(backend: &TestBackend, x: u16, y: u16) -> (Color, Modifier) {
    let cell = backend.buffer().cell((x, y)).unwrap();
    (cell.fg, cell.modifier)
}

/// Three processes, seen twice.
fn model() -> Model {
    let mut model = Model::new();
    for (more, ago) in [(0, 1400), (1200, 400)] {
        let mut found = vec![(7, look(more, ago)), (4711, look(2 * more, ago)), (12, look(0, 15_000))];
        found[0].1.table.report.comm = "sh".into();
        found[2].1.table.report.comm = "idle".into();
        model.update(now(), found, None);
    }
    model
}

#[test]
fn the_list() {
    let (model, mut app) = (model(), App::new(Page::List, Some(crate::cli::SortBy::Rate)));
    let drawn = screen(&mut app, &model, (88, 12), None);
    let expected = "\
kmem top: processes on kmem
 PID  NAME         ENGINE   RSS  IN USE  HELD  FREE   PEAK  ALLOCS/S    AGE
4711  my prog      slub    9.0M    102K  592K  1.2M  10.7M     2,400  0.4 s
   7  sh           slub    9.0M    102K  592K  1.2M  10.7M     1,200  0.4 s
  12  idle         slub    9.0M    102K  592K  1.2M  10.7M         -   15 s
---------------------------------------------------------------------------
      3 processes                  307K  1.7M  3.5M            3,600




 by ALLOCS/S, descending   s sort  r reverse  p pause  Enter open  ? help  q quit";
    assert_eq!(lines(&drawn).join("\n"), expected, "\n{}", lines(&drawn).join("\n"));
    assert_eq!(style(&drawn, 0, 2).1, Modifier::REVERSED, "selected");
    assert_eq!(style(&drawn, 0, 3).1, Modifier::empty());
    assert_eq!(style(&drawn, 0, 4).1, Modifier::DIM, "an old table");
    assert_eq!(style(&drawn, 60, 1), (Color::Cyan, Modifier::REVERSED | Modifier::BOLD), "sorted by");
    assert_eq!(style(&drawn, 50, 1), (Color::Reset, Modifier::REVERSED));
}

#[test]
fn one_process() {
    let (mut model, mut app) = (model(), App::new(Page::List, None));
    app.press(Key::Char('d'), &model);
    app.press(Key::End, &model);
    assert_eq!(app.press(Key::Enter, &model), After::Draw);
    let drawn = screen(&mut app, &model, (100, 14), None);
    let expected = "\
my prog (pid 4711)
heap of 'my prog': engine slub, 2 CPUs, 1 node, CPU stacks by restartable sequences
blocks: 102K in use by the program, 592K held for them, RSS 9.0M
pages: 592K in use (peak 2.7M), 1.2M free and still resident, 8.0M fetched from the system
large: 2 runs of pages, 80.0K (peak 400K); huge: 0 mappings of their own, 0 (peak 8.0M)
guard: 12 samples (3 in use), 4 turns without one, 0 errors
CACHE        SIZE  IN USE  HELD  USE%  SLABS  BYTES  WASTE   PEAK   ALLOCS  ALLOCS/S  CPU%
kmalloc-1k  1,024      16    16   100      1  16.0K      0  16.0K       16         0   0.0
kmalloc-64     64     100   192  52.1      3  12.0K   5.8K  20.0K  102,400     2,400  99.8
kmalloc-8k  8,192       0     0     -      0      0      0  64.0K       10         0  80.0
------------------------------------------------------------------------------------------
3 caches              116   208  55.8      4  28.0K   5.8K         102,426     2,400  99.7

 by BYTES, descending   s sort  r reverse  p pause  Esc back  ? help  q quit";
    assert_eq!(lines(&drawn).join("\n"), expected, "\n{}", lines(&drawn).join("\n"));
    assert_eq!(style(&drawn, 0, 9).1, Modifier::DIM, "a cache without slabs");

    // It ends: its last table stays.
    model.update(now(), vec![], app.kept());
    let drawn = screen(&mut app, &model, (100, 14), None);
    assert_eq!(lines(&drawn)[0], "my prog (pid 4711), has ended: its last table");
    assert_eq!(lines(&drawn)[7..12], expected.lines().collect::<Vec<_>>()[7..12]);
    assert_eq!(style(&drawn, 0, 0).0, Color::Yellow);
}

#[test]
fn a_small_screen_scrolls() {
    let (model, mut app) = (model(), App::new(Page::One(4711), None));
    let rows = |app: &mut App| {
        let drawn = lines(&screen(app, &model, (70, 12), None));
        assert!(drawn.last().unwrap().starts_with(" by BYTES"), "{drawn:?}");
        drawn
            .iter()
            .filter_map(|line| line.strip_prefix("kmalloc-"))
            .map(|row| row[..2].to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(rows(&mut app), ["1k", "64"]);
    app.press(Key::Down, &model);
    assert_eq!(rows(&mut app), ["64", "8k"]);
    app.press(Key::Down, &model);
    assert_eq!(rows(&mut app), ["64", "8k"]);
}

#[test]
fn no_size_is_too_small() {
    let (model, long) = (model(), "trouble ".repeat(40));
    for page in [Page::List, Page::One(4711), Page::One(99)] {
        for (width, height) in (0..90).step_by(7).flat_map(|width| (0..16).map(move |height| (width, height)))
        {
            for help in [false, true] {
                let mut app = App::new(page, None);
                app.help = help;
                let drawn = screen(&mut app, &model, (width, height), help.then_some(&*long));
                assert_eq!(lines(&drawn).len(), usize::from(height) * usize::from(width > 0));
            }
        }
    }
}

#[test]
fn pause_trouble_and_nobody_are_told() {
    let (mut model, mut app) = (model(), App::new(Page::List, None));
    app.press(Key::Char('p'), &model);
    let drawn = lines(&screen(&mut app, &model, (80, 10), None));
    assert!(drawn[9].starts_with(" paused, by HELD, descending   s sort"), "{drawn:?}");
    let drawn = lines(&screen(&mut app, &model, (80, 10), Some("/x/1.table: line 3: cut off")));
    assert_eq!(drawn[9], " /x/1.table: line 3: cut off");
    model.update(now(), vec![], None);
    let drawn = lines(&screen(&mut app, &model, (80, 10), None));
    assert_eq!(drawn[1], "none runs");
}

#[test]
fn all_keys_are_explained() {
    for (page, number) in [(Page::List, 10), (Page::One(4711), 12)] {
        let (model, mut app) = (model(), App::new(page, None));
        app.press(Key::Char('?'), &model);
        let text = lines(&screen(&mut app, &model, (90, 24), None)).join("\n");
        let named = match page {
            Page::List => letters::<ProcessRow>(),
            Page::One(_) => letters::<CacheRow>(),
        };
        assert_eq!(named.len(), number);
        assert!(named.iter().all(|key| text.contains(key.trim_end())), "{text}");
        assert!(text.contains("Keys") && text.contains("r      turn the order round"), "{text}");
    }
}
