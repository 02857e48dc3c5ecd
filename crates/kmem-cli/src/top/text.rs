//! The view as text: what is above a process's table, on the screen too, and the whole for those who redirect it.

use std::time::SystemTime;

use super::app::{App, Page};
use super::columns;
use super::model::{Model, OLD, Watched};
use crate::report::Blocks;
use crate::summary;
use crate::table::Paint;
use crate::units::{bytes, count};

/// How much is shown, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Form {
    /// Colours.
    pub(crate) paint: Paint,
    /// Width of the terminal.
    pub(crate) columns: Option<usize>,
    /// Rows; 0 for all.
    pub(crate) top: usize,
}

/// The page as text, every line ended.
pub(crate) fn page(app: &App, model: &Model, form: Form) -> String {
    let Form { paint, columns, top } = form;
    match app.page {
        Page::List => {
            let rows = app.process_rows(model);
            columns::table(&rows, app.processes, top, columns).0.render(paint, columns)
        }
        Page::One(pid) => {
            let mut out = String::new();
            let lines = model.get(pid).map(|watched| head(watched, model.at())).unwrap_or_default();
            for (at, line) in lines.iter().enumerate() {
                out.push_str(&if at == 0 { paint.bold(line) } else { line.clone() });
                out.push('\n');
            }
            out.push('\n');
            let rows = app.cache_rows(model, pid);
            out + &columns::table(&rows, app.caches, top, columns).0.render(paint, columns)
        }
    }
}

/// What is told of a process above its caches. The first line is its title.
pub(crate) fn head(watched: &Watched, now: SystemTime) -> Vec<String> {
    let report = watched.report();
    let row = watched.process_row(now);
    let state = if watched.ended {
        ", has ended: its last table".to_owned()
    } else if row.age > OLD {
        format!(", as of {} ago", columns::age(row.age))
    } else {
        String::new()
    };
    let resident = row.resident.map_or_else(String::new, |resident| format!(", RSS {}", bytes(resident)));
    let mut lines = vec![
        format!("{} (pid {}){state}", if report.exe.is_empty() { &row.name } else { &report.exe }, row.pid),
        summary::machine(report).trim().to_owned(),
        format!(
            "blocks: {} in use by the program, {} held for them{resident}",
            bytes(row.in_use),
            bytes(row.held)
        ),
        summary::pages(report).trim().to_owned(),
    ];
    if report.large.allocs > 0 || report.huge.allocs > 0 {
        lines.push(format!(
            "large: {}; huge: {}",
            blocks(&report.large, "runs of pages"),
            blocks(&report.huge, "mappings of their own"),
        ));
    }
    if report.errors > 0 {
        lines.push(format!("errors: {} found so far", count(report.errors)));
    }
    lines.extend(report.guard.map(|guard| summary::guard(guard).trim().to_owned()));
    lines
}

fn blocks(blocks: &Blocks, what: &str) -> String {
    format!("{} {what}, {} (peak {})", count(blocks.live), bytes(blocks.bytes), bytes(blocks.peak))
}

#[cfg(test)]
#[path = "text_tests.rs"]
mod tests;
