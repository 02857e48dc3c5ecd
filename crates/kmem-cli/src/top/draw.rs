//! Drawing the view: head lines, a table, and a line that tells the keys. What is shown comes from [`App`] and [`Model`];
//! nothing is decided here but where it goes.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Block, Clear, Paragraph};

use super::app::{App, Page};
use super::columns::{self, Row, Sort};
use super::model::{CacheRow, Model, ProcessRow};
use super::text::head;
use crate::table::{Part, Tone};

const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);
const DIM: Style = Style::new().add_modifier(Modifier::DIM);
const REVERSED: Style = Style::new().add_modifier(Modifier::REVERSED);
const WARN: Style = Style::new().fg(Color::Yellow);

/// What is drawn into: a screen, from the top.
struct Canvas<'a, 'b> {
    frame: &'a mut Frame<'b>,
    /// The next line.
    y: u16,
}

impl Canvas<'_, '_> {
    fn width(&self) -> u16 {
        self.frame.area().width
    }

    /// A line over the whole width; nothing below the screen.
    fn line(&mut self, text: &str, style: Style) {
        let area = Rect { y: self.y, height: 1, ..self.frame.area() };
        if self.y < self.frame.area().height {
            self.frame.render_widget(Line::raw(text).style(style), area);
            self.y += 1;
        }
    }

    /// Another style for a part of the line that was drawn last.
    fn mark(&mut self, columns: std::ops::Range<usize>, style: Style) {
        let bound = |at: usize| u16::try_from(at).unwrap_or(u16::MAX).min(self.width());
        let (start, end) = (bound(columns.start), bound(columns.end));
        let area = Rect { x: start, y: self.y.saturating_sub(1), width: end - start, height: 1 };
        self.frame.buffer_mut().set_style(area, style);
    }
}

/// Draws everything.
pub(crate) fn draw(frame: &mut Frame<'_>, app: &mut App, model: &Model, trouble: Option<&str>) {
    let mut canvas = Canvas { frame, y: 0 };
    let (number, keys) = match app.page {
        Page::List => (list(&mut canvas, app, model), "Enter open"),
        Page::One(pid) => (one(&mut canvas, app, model, pid), "Esc back"),
    };
    let last = canvas.frame.area().height.saturating_sub(1);
    if canvas.y > last {
        return;
    }
    canvas.y = last;
    match trouble {
        Some(trouble) => canvas.line(&format!(" {trouble}"), WARN),
        None => {
            let state = if app.paused { "paused, " } else { "" };
            let text = format!(" {state}{number}   s sort  r reverse  p pause  {keys}  ? help  q quit");
            canvas.line(&text, DIM);
        }
    }
    if app.help {
        help(canvas.frame, app.page);
    }
}

fn list(canvas: &mut Canvas<'_, '_>, app: &mut App, model: &Model) -> String {
    let rows = app.process_rows(model);
    canvas.line("kmem top: processes on kmem", BOLD);
    if rows.is_empty() {
        canvas.line("none runs", DIM);
    }
    app.height = room(canvas);
    let selected = app.select(&rows);
    body(canvas, &rows, app.processes, app.scroll, app.height, selected);
    order::<ProcessRow>(app.processes)
}

fn one(canvas: &mut Canvas<'_, '_>, app: &mut App, model: &Model, pid: u32) -> String {
    let Some(watched) = model.get(pid) else {
        // It ended before it was looked at a second time.
        canvas.line(&format!("process {pid} has ended"), WARN);
        return String::new();
    };
    for (at, line) in head(watched, model.at()).iter().enumerate() {
        let style = match at {
            0 if watched.ended => WARN.patch(BOLD),
            0 => BOLD,
            _ => Style::new(),
        };
        canvas.line(line, style);
    }
    let rows = app.cache_rows(model, pid);
    app.height = room(canvas);
    app.scroll = app.scroll.min(rows.len().saturating_sub(app.height));
    body(canvas, &rows, app.caches, app.scroll, app.height, None);
    order::<CacheRow>(app.caches)
}

/// Rows that fit between the titles, and the rule with the total and the line of keys.
fn room(canvas: &Canvas<'_, '_>) -> usize {
    usize::from(canvas.frame.area().height.saturating_sub(canvas.y)).saturating_sub(4).max(1)
}

fn body<R: Row>(
    canvas: &mut Canvas<'_, '_>,
    rows: &[R],
    sort: Sort,
    scroll: usize,
    height: usize,
    selected: Option<usize>,
) {
    let width = Some(usize::from(canvas.width()));
    let (table, sorted) = columns::table(rows, sort, 0, width);
    let mut row = 0;
    for (part, text) in table.lines(width) {
        match part {
            Part::Titles => {
                canvas.line(&text, REVERSED);
                if let Some(sorted) = sorted {
                    canvas.mark(table.place(sorted, width), REVERSED.patch(BOLD).fg(Color::Cyan));
                }
            }
            Part::Row(tone) => {
                if (scroll..scroll.saturating_add(height)).contains(&row) {
                    let style = match tone {
                        _ if selected == Some(row) => REVERSED,
                        Tone::Plain => Style::new(),
                        Tone::Dim => DIM,
                        Tone::Warn => WARN,
                    };
                    canvas.line(&text, style);
                }
                row += 1;
            }
            Part::Rule => canvas.line(&text, DIM),
            Part::Total => canvas.line(&text, BOLD),
        }
    }
}

/// `by BYTES, descending`.
fn order<R: Row>(sort: Sort) -> String {
    let column = sort.column::<R>();
    let direction = if column.ascends() != sort.reversed { "ascending" } else { "descending" };
    format!("by {}, {direction}", column.title)
}

/// The keys, in a box over the middle.
fn help(frame: &mut Frame<'_>, page: Page) {
    let mut lines: Vec<String> = [
        "arrows, PgUp, PgDn, Home, End   move",
        "Enter  open a process           Esc, q  back, quit",
        "p      pause                    s  sort by the next column",
        "r      turn the order round     ^C quit",
        "",
        "Sort by (twice: the other way round):",
    ]
    .map(str::to_owned)
    .into();
    let keys: Vec<String> = match page {
        Page::List => letters::<ProcessRow>(),
        Page::One(_) => letters::<CacheRow>(),
    };
    lines.extend(keys.chunks(4).map(|keys| keys.concat().trim_end().to_owned()));
    let (width, height) = (64.min(frame.area().width), (lines.len() as u16 + 2).min(frame.area().height));
    let area =
        Rect { x: (frame.area().width - width) / 2, y: (frame.area().height - height) / 2, width, height };
    let lines: Vec<Line<'_>> = lines.iter().map(|line| Line::raw(format!(" {line}"))).collect();
    frame.render_widget(Clear, area);
    frame.render_widget(Paragraph::new(lines).block(Block::bordered().title(" Keys ")), area);
}

fn letters<R: Row>() -> Vec<String> {
    R::COLUMNS.iter().map(|column| format!("{} {:<11}", column.letter, column.title)).collect()
}

#[cfg(test)]
#[path = "draw_tests.rs"]
mod tests;
