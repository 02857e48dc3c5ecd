use super::*;
use crate::top::model::tests::{look, now};

/// Three processes; of the first the heap holds least.
fn model() -> Model {
    let mut model = Model::new();
    let found = [(10, 1000), (20, 1500), (30, 2000)].map(|(pid, managed)| {
        let mut look = look(0, 500);
        look.table.report.pages.managed = managed + 1900;
        look.table.report.comm = format!("prog{pid}");
        (pid, look)
    });
    model.update(now(), found.into(), None);
    model
}

fn pids(app: &App, model: &Model) -> Vec<u32> {
    app.process_rows(model).iter().map(|row| row.pid).collect()
}

fn selected(app: &mut App, model: &Model) -> u32 {
    let rows = app.process_rows(model);
    rows[app.select(&rows).unwrap()].pid
}

#[test]
fn arrows_select_and_enter_opens() {
    let (model, mut app) = (model(), App::new(Page::List, None));
    assert_eq!(pids(&app, &model), [30, 20, 10], "who holds most is first");
    assert_eq!(selected(&mut app, &model), 30);
    for (key, pid) in
        [(Key::Down, 20), (Key::Down, 10), (Key::Down, 10), (Key::Up, 20), (Key::Home, 30), (Key::End, 10)]
    {
        assert_eq!(app.press(key, &model), After::Draw);
        assert_eq!(selected(&mut app, &model), pid, "{key:?}");
    }
    app.press(Key::Enter, &model);
    assert_eq!((app.page, app.kept()), (Page::One(10), Some(10)));
    assert_eq!(app.press(Key::Esc, &model), After::Look);
    assert_eq!((app.page, app.kept()), (Page::List, None));
    assert_eq!(app.press(Key::Char('q'), &model), After::Quit);
}

#[test]
fn the_selection_stays_with_its_process() {
    let (mut model, mut app) = (model(), App::new(Page::List, None));
    app.press(Key::Down, &model);
    app.press(Key::Char('r'), &model);
    assert_eq!((pids(&app, &model), selected(&mut app, &model)), (vec![10, 20, 30], 20));
    app.press(Key::Char('d'), &model);
    assert_eq!((pids(&app, &model), selected(&mut app, &model)), (vec![10, 20, 30], 20));
    // It ends: the one in its place is selected, or the last.
    model.update(now(), vec![(10, look(0, 0)), (30, look(0, 0))], None);
    assert_eq!(selected(&mut app, &model), 30);
    model.update(now(), vec![(10, look(0, 0))], None);
    assert_eq!(selected(&mut app, &model), 10);
    model.update(now(), vec![], None);
    assert_eq!(app.select(&app.process_rows(&model)), None);
    app.press(Key::Down, &model);
    app.press(Key::Enter, &model);
    assert_eq!(app.page, Page::List, "nothing to open");
}

#[test]
fn keys_sort_and_turn_the_order_round() {
    let (model, mut app) = (model(), App::new(Page::List, None));
    for (key, by, reversed) in [
        ('n', SortBy::Name, false),
        ('n', SortBy::Name, true),
        ('n', SortBy::Name, false),
        ('r', SortBy::Name, true),
        ('s', SortBy::Engine, false),
        ('z', SortBy::Engine, false),
        ('g', SortBy::Age, false),
        ('s', SortBy::Pid, false),
    ] {
        app.press(Key::Char(key), &model);
        assert_eq!(app.processes, Sort { by, reversed }, "{key}");
    }
    assert_eq!(app.caches, Sort::usual::<CacheRow>(), "each page has its own");
    app.press(Key::Enter, &model);
    app.press(Key::Char('z'), &model);
    let rows = app.cache_rows(&model, 10);
    assert_eq!((app.caches.by, rows[0].cache.name.as_str()), (SortBy::Size, "kmalloc-8k"));
}

#[test]
fn rows_scroll_no_further_than_they_go() {
    let (model, mut app) = (model(), App::new(Page::One(10), None));
    app.height = 2;
    for (key, scroll) in
        [(Key::Down, 1), (Key::Down, 1), (Key::Up, 0), (Key::Up, 0), (Key::End, 1), (Key::PageUp, 0)]
    {
        app.press(key, &model);
        assert_eq!(app.scroll, scroll, "{key:?}");
    }
    // The selection of a list is always in view.
    let mut app = App::new(Page::List, None);
    app.height = 2;
    app.press(Key::PageDown, &model);
    app.press(Key::PageDown, &model);
    assert_eq!((selected(&mut app, &model), app.scroll), (10, 1));
    app.press(Key::Home, &model);
    assert_eq!((selected(&mut app, &model), app.scroll), (30, 0));
}

#[test]
fn a_pause_ends_with_a_look_and_help_with_any_key() {
    let (model, mut app) = (model(), App::new(Page::One(10), None));
    assert_eq!((app.press(Key::Char('p'), &model), app.paused), (After::Draw, true));
    assert_eq!((app.press(Key::Char('p'), &model), app.paused), (After::Look, false));
    app.press(Key::Char('?'), &model);
    assert!(app.help);
    assert_eq!((app.press(Key::Char('q'), &model), app.help), (After::Draw, false));
    assert_eq!(app.press(Key::Left, &model), After::Draw, "there is no list to go back to");
    assert_eq!(app.press(Key::Esc, &model), After::Quit);
    app.help = true;
    assert_eq!(app.press(Key::Interrupt, &model), After::Quit);
}

#[test]
fn what_is_asked_for_sorts_the_page_that_has_it() {
    let app = App::new(Page::List, Some(SortBy::Waste));
    assert_eq!((app.processes.by, app.caches.by), (SortBy::Held, SortBy::Waste));
    let app = App::new(Page::List, Some(SortBy::InUse));
    assert_eq!((app.processes.by, app.caches.by), (SortBy::InUse, SortBy::InUse));
}
