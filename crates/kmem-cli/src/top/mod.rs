//! `kmem top`: processes on kmem while they run, on a full screen or as text.
//!
//! # How
//! It looks into live directories ([`crate::live`]) every second, and asks nobody for anything: a process leaves its table by
//! itself, whether somebody looks or not, and one whose table is old is woken only if the user says so. A look goes into the [`model`], which keeps what rates need; the [`app`] is where the
//! viewer is and what keys do; [`columns`] are what both tables show. [`text`] writes them, [`draw`] draws them on the
//! [`screen`].
//!
//! # Never
//! Nothing is written anywhere but to the terminal; what is removed are tables of processes that are gone.

mod app;
mod columns;
mod draw;
mod keys;
mod model;
mod screen;
mod text;

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use crate::cli::TopArgs;
use crate::failure::{Failure, Result};
use crate::live::wake::Waker;
use crate::live::{self, Who, directory};
use crate::sys;
use crate::table::Paint;
use app::{After, App, Page};
use columns::Sort;
use model::{CacheRow, Look, Model, OLD, ProcessRow};
use screen::{Input, Screen};
use text::Form;

/// How often a look is taken while text waits for rates.
const SAMPLE: Duration = Duration::from_millis(50);

/// Runs the command.
///
/// # Errors
/// Status 1: no such process, none at all, or no such column.
pub(crate) fn run(args: &TopArgs) -> Result<u8> {
    let source = Source {
        directories: directory::to_look_in(args.dir.as_deref())?,
        who: Who::of(args.who.as_deref()),
        wakers: args.wake.then(RefCell::default),
    };
    let mut model = Model::new();
    let (found, trouble) = source.look();
    model.update(SystemTime::now(), found, None);
    let mut pids = model.running().map(|watched| watched.pid);
    let page = match (&source.who, pids.next(), pids.next()) {
        (_, None, _) => return Err(trouble.map_or_else(|| source.none(), Failure::input)),
        (Who::All, ..) | (_, _, Some(_)) => Page::List,
        (_, Some(pid), None) => Page::One(pid),
    };
    drop(pids);
    let app = App::new(page, args.sort);
    if let Some(by) = args.sort {
        let (known, what) = match page {
            Page::List => (Sort::by::<ProcessRow>(by).is_some(), "one process"),
            Page::One(_) => (Sort::by::<CacheRow>(by).is_some(), "all processes"),
        };
        if !known && (args.once || page != Page::List || !io::stdout().is_terminal()) {
            return Err(Failure::input(format!("--sort {by}: only the table of {what} has this column")));
        }
    }
    let delay = Duration::from_secs_f64(args.delay);
    if args.once || !io::stdout().is_terminal() {
        return once(&source, &app, &mut model, delay, args.top);
    }
    let ended = watch(&source, app, &mut model, delay);
    ended.map_err(|error| Failure::input(format!("terminal: {error}")))
}

/// Where to look, and for whom.
struct Source {
    directories: Vec<PathBuf>,
    who: Who,
    /// Those of processes that were to be woken, if any are.
    wakers: Option<RefCell<HashMap<u32, Waker>>>,
}

impl Source {
    /// What is there, and the first table that cannot be read.
    fn look(&self) -> (Vec<(u32, Look)>, Option<String>) {
        let (mut looks, mut trouble) = (Vec::new(), None);
        for found in directory::processes(&self.directories) {
            if !self.who.may_be(found.pid) {
                continue;
            }
            match live::read_table(&found.directory, found.pid) {
                Ok(Some(table)) if self.who.is(found.pid, &table.report) => {
                    let resident = live::process::resident(found.pid);
                    if table.written.elapsed().is_ok_and(|age| age > OLD)
                        && let Some(wakers) = &self.wakers
                    {
                        let mut wakers = wakers.borrow_mut();
                        wakers
                            .entry(found.pid)
                            .or_insert_with(|| Waker::new(found.pid))
                            .turn(&found.directory);
                    }
                    looks.push((found.pid, Look { table, resident }));
                }
                Ok(_) => {}
                Err(error) => {
                    trouble.get_or_insert(error);
                }
            }
        }
        (looks, trouble)
    }

    fn none(&self) -> Failure {
        live::nobody(&self.who, &self.directories)
    }
}

/// Prints the page once. With a delay rates are shown: of that time, or of half as much again where a table that is
/// replaced from second to second was not yet.
fn once(source: &Source, app: &App, model: &mut Model, delay: Duration, top: usize) -> Result<u8> {
    let start = Instant::now();
    let waits =
        |model: &Model| model.running().any(|watched| watched.age(model.at()) <= OLD && !watched.has_step());
    while start.elapsed() < delay || (start.elapsed() < delay * 3 / 2 && waits(model)) {
        thread::sleep(SAMPLE.min(delay));
        model.update(SystemTime::now(), source.look().0, app.kept());
    }
    let paint = Paint::for_terminal(io::stdout().is_terminal());
    let text = text::page(app, model, Form { paint, columns: sys::terminal_columns(1), top });
    let written = io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush());
    written.map_err(|error| Failure::input(format!("stdout: {error}")))?;
    Ok(0)
}

/// The full screen, until the viewer leaves it.
fn watch(source: &Source, mut app: App, model: &mut Model, delay: Duration) -> io::Result<u8> {
    // Turning without a pause shows nothing more.
    let delay = delay.max(Duration::from_millis(50));
    let mut screen = Screen::open()?;
    let mut next = Instant::now() + delay;
    let mut trouble = None;
    loop {
        screen.draw(|frame| draw::draw(frame, &mut app, model, trouble.as_deref()))?;
        let mut look = false;
        match screen.wait(next.saturating_duration_since(Instant::now()))? {
            Input::Nothing => {}
            Input::Closed => return Ok(0),
            Input::Signal(signal) => {
                drop(screen);
                sys::die_by(signal);
                return Ok(0);
            }
            Input::Keys(keys) => {
                for key in keys {
                    match app.press(key, model) {
                        After::Draw => {}
                        After::Look => look = true,
                        After::Quit => return Ok(0),
                    }
                }
            }
        }
        if look || Instant::now() >= next {
            next = Instant::now() + delay;
            if !app.paused {
                let (found, wrong) = source.look();
                model.update(SystemTime::now(), found, app.kept());
                trouble = wrong;
            }
        }
    }
}
