//! What the full-screen view is at: which page, sorted how, scrolled where; and what each key does to it.
//!
//! Two pages: the list of processes, with one selected, and one process with its caches. Nothing here draws or reads
//! anything, so that tests can press keys.

use super::columns::{Row, Sort};
use super::keys::Key;
use super::model::{CacheRow, Model, ProcessRow};
use crate::cli::SortBy;

/// Which page is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Page {
    /// All processes.
    List,
    /// One.
    One(u32),
}

/// What is to be done after a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum After {
    /// Draw.
    Draw,
    /// Look at the processes again, and draw.
    Look,
    /// Leave.
    Quit,
}

/// The state of the view.
#[derive(Debug)]
pub(crate) struct App {
    /// The page.
    pub(crate) page: Page,
    /// It began with one process: there is no list behind it.
    alone: bool,
    /// How processes are sorted.
    pub(crate) processes: Sort,
    /// How caches are sorted.
    pub(crate) caches: Sort,
    /// The process that Enter opens; one that is gone gives the selection to the row in its place.
    selected: Option<u32>,
    /// Where the selection was when that was last looked at.
    at: usize,
    /// Rows above the first that is shown.
    pub(crate) scroll: usize,
    /// Rows that fit, as the last drawing found.
    pub(crate) height: usize,
    /// No looks are taken.
    pub(crate) paused: bool,
    /// The keys are explained.
    pub(crate) help: bool,
}

impl App {
    /// At the beginning: the list, or one process.
    pub(crate) fn new(page: Page, sort: Option<SortBy>) -> Self {
        let sorts = |sort: Option<Sort>, usual: Sort| sort.unwrap_or(usual);
        App {
            page,
            alone: page != Page::List,
            processes: sorts(sort.and_then(Sort::by::<ProcessRow>), Sort::usual::<ProcessRow>()),
            caches: sorts(sort.and_then(Sort::by::<CacheRow>), Sort::usual::<CacheRow>()),
            selected: None,
            at: 0,
            scroll: 0,
            height: 1,
            paused: false,
            help: false,
        }
    }

    /// The process that is to be remembered when it has ended.
    pub(crate) fn kept(&self) -> Option<u32> {
        match self.page {
            Page::List => None,
            Page::One(pid) => Some(pid),
        }
    }

    /// The rows of the list, sorted.
    pub(crate) fn process_rows(&self, model: &Model) -> Vec<ProcessRow> {
        let mut rows: Vec<ProcessRow> =
            model.running().map(|watched| watched.process_row(model.at())).collect();
        self.processes.apply(&mut rows);
        rows
    }

    /// The rows of one process, sorted.
    pub(crate) fn cache_rows(&self, model: &Model, pid: u32) -> Vec<CacheRow> {
        let mut rows = model.get(pid).map(|watched| watched.cache_rows(model.at())).unwrap_or_default();
        self.caches.apply(&mut rows);
        rows
    }

    /// The selected row, which is scrolled into view.
    pub(crate) fn select(&mut self, rows: &[ProcessRow]) -> Option<usize> {
        let same = self.selected.and_then(|pid| rows.iter().position(|row| row.pid == pid));
        self.at = same.unwrap_or(self.at).min(rows.len().checked_sub(1)?);
        self.selected = Some(rows[self.at].pid);
        let first = (self.at + 1).saturating_sub(self.height);
        self.scroll = self.scroll.clamp(first, self.at);
        Some(self.at)
    }

    /// Does what a key asks for.
    pub(crate) fn press(&mut self, key: Key, model: &Model) -> After {
        if self.help {
            self.help = false;
            return if matches!(key, Key::Interrupt) { After::Quit } else { After::Draw };
        }
        match key {
            Key::Interrupt => return After::Quit,
            Key::Char('q') | Key::Esc | Key::Left | Key::Backspace => return self.back(key),
            Key::Char('?') => self.help = true,
            Key::Char('p' | ' ') => {
                self.paused = !self.paused;
                return if self.paused { After::Draw } else { After::Look };
            }
            Key::Char('s') => match self.page {
                Page::List => self.processes = self.processes.next::<ProcessRow>(),
                Page::One(_) => self.caches = self.caches.next::<CacheRow>(),
            },
            Key::Char('r') => match self.page {
                Page::List => self.processes.reversed ^= true,
                Page::One(_) => self.caches.reversed ^= true,
            },
            Key::Enter | Key::Right => return self.open(model),
            Key::Char(letter) => match self.page {
                Page::List => sort_by::<ProcessRow>(&mut self.processes, letter),
                Page::One(_) => sort_by::<CacheRow>(&mut self.caches, letter),
            },
            Key::Up => self.step(model, -1),
            Key::Down => self.step(model, 1),
            Key::PageUp => self.step(model, -self.whole_page()),
            Key::PageDown => self.step(model, self.whole_page()),
            Key::Home => self.step(model, isize::MIN / 2),
            Key::End => self.step(model, isize::MAX / 2),
        }
        After::Draw
    }

    fn back(&mut self, key: Key) -> After {
        let leaves = matches!(key, Key::Char('q') | Key::Esc);
        match self.page {
            Page::One(_) if !self.alone => {
                self.page = Page::List;
                self.scroll = 0;
                After::Look
            }
            _ if leaves => After::Quit,
            _ => After::Draw,
        }
    }

    fn open(&mut self, model: &Model) -> After {
        if self.page == Page::List {
            let rows = self.process_rows(model);
            if let Some(at) = self.select(&rows) {
                self.page = Page::One(rows[at].pid);
                self.scroll = 0;
            }
        }
        After::Draw
    }

    fn whole_page(&self) -> isize {
        self.height.max(2) as isize - 1
    }

    /// Moves the selection, or the rows where nothing is selected.
    fn step(&mut self, model: &Model, by: isize) {
        match self.page {
            Page::List => {
                let rows = self.process_rows(model);
                if let Some(at) = self.select(&rows) {
                    let at = at.saturating_add_signed(by).min(rows.len() - 1);
                    self.selected = Some(rows[at].pid);
                    self.select(&rows);
                }
            }
            Page::One(pid) => {
                let rows = self.cache_rows(model, pid).len();
                self.scroll = self.scroll.saturating_add_signed(by).min(rows.saturating_sub(self.height));
            }
        }
    }
}

/// By the column with this letter; once more by the same turns the order round.
fn sort_by<R: Row>(sort: &mut Sort, letter: char) {
    if let Some(column) = R::COLUMNS.iter().find(|column| column.letter == letter) {
        let reversed = sort.by == column.by && !sort.reversed;
        *sort = Sort { by: column.by, reversed };
    }
}

#[cfg(test)]
#[path = "app_tests.rs"]
mod tests;
