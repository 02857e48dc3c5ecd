//! Text tables: columns as wide as their widest cell, numbers to the right, an optional total below a rule.

use std::ops::Range;

/// Whether the output takes colours. Text is the same with and without, escape sequences aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Paint {
    /// Emit escape sequences.
    pub(crate) on: bool,
}

impl Paint {
    /// For a stream that is a terminal, unless the user refuses colour (`NO_COLOR`, a dumb terminal).
    pub(crate) fn for_terminal(is_terminal: bool) -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
        Paint { on: is_terminal && !refused && !dumb }
    }

    fn wrap(self, code: &str, text: &str) -> String {
        if self.on && !text.trim().is_empty() {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    /// Titles and totals.
    pub(crate) fn bold(self, text: &str) -> String {
        self.wrap("1", text)
    }

    /// Things of less interest.
    pub(crate) fn dim(self, text: &str) -> String {
        self.wrap("2", text)
    }

    /// Things to look at.
    pub(crate) fn warn(self, text: &str) -> String {
        self.wrap("33", text)
    }

    /// Objects in use, success.
    pub(crate) fn good(self, text: &str) -> String {
        self.wrap("32", text)
    }

    /// Objects that wait on a CPU.
    pub(crate) fn cool(self, text: &str) -> String {
        self.wrap("36", text)
    }
}

/// On which side a column is flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    /// Names.
    Left,
    /// Numbers.
    Right,
}

/// How a row is shown where colours are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    /// As it is.
    Plain,
    /// Less important.
    Dim,
    /// Worth a look.
    Warn,
}

/// What a line of a table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// The titles of the columns.
    Titles,
    /// A row.
    Row(Tone),
    /// The rule above the total.
    Rule,
    /// The total.
    Total,
}

/// A table under construction. Every row has as many cells as there are columns.
#[derive(Debug)]
pub(crate) struct Table {
    titles: Vec<(String, Align)>,
    rows: Vec<(Vec<String>, Tone)>,
    total: Option<Vec<String>>,
}

impl Table {
    /// A table with these column titles.
    pub(crate) fn new(titles: &[(&str, Align)]) -> Self {
        let titles = titles.iter().map(|(title, align)| ((*title).to_owned(), *align)).collect();
        Table { titles, rows: Vec::new(), total: None }
    }

    /// Adds a row.
    ///
    /// # Panics
    /// When the number of cells is not the number of columns.
    pub(crate) fn row(&mut self, tone: Tone, cells: Vec<String>) {
        assert_eq!(cells.len(), self.titles.len(), "cells and columns");
        self.rows.push((cells, tone));
    }

    /// Sets the row below the rule.
    ///
    /// # Panics
    /// When the number of cells is not the number of columns.
    pub(crate) fn total(&mut self, cells: Vec<String>) {
        assert_eq!(cells.len(), self.titles.len(), "cells and columns");
        self.total = Some(cells);
    }

    fn widths(&self) -> Vec<usize> {
        let mut widths: Vec<usize> = self.titles.iter().map(|(title, _)| title.chars().count()).collect();
        for cells in self.rows.iter().map(|(cells, _)| cells).chain(&self.total) {
            for (width, cell) in widths.iter_mut().zip(cells) {
                *width = (*width).max(cell.chars().count());
            }
        }
        widths
    }

    /// Characters that a line takes with columns one space apart: a table for a narrower place wants fewer columns.
    pub(crate) fn least_width(&self) -> usize {
        self.widths().iter().sum::<usize>() + self.titles.len().saturating_sub(1)
    }

    /// Columns are two spaces apart, or one where two would not fit into `columns` characters.
    fn gap(&self, columns: Option<usize>) -> usize {
        let needed = self.least_width() + self.titles.len().saturating_sub(1);
        if columns.is_some_and(|columns| needed > columns) { 1 } else { 2 }
    }

    /// Where a column is in the lines of a table for so many characters.
    pub(crate) fn place(&self, column: usize, columns: Option<usize>) -> Range<usize> {
        let (widths, gap) = (self.widths(), self.gap(columns));
        let start = widths[..column].iter().map(|width| width + gap).sum();
        start..start + widths[column]
    }

    /// The lines, without colours and ends. For the gaps see [`Table::render`].
    pub(crate) fn lines(&self, columns: Option<usize>) -> Vec<(Part, String)> {
        let (widths, gap) = (self.widths(), self.gap(columns));
        let line = |cells: &mut dyn Iterator<Item = &String>| {
            let mut text = String::new();
            for (index, (cell, width)) in cells.zip(&widths).enumerate() {
                if index > 0 {
                    text.push_str(&" ".repeat(gap));
                }
                match self.titles[index].1 {
                    Align::Left => text.push_str(&format!("{cell:<width$}")),
                    Align::Right => text.push_str(&format!("{cell:>width$}")),
                }
            }
            text.truncate(text.trim_end().len());
            text
        };
        let mut lines = vec![(Part::Titles, line(&mut self.titles.iter().map(|(title, _)| title)))];
        lines.extend(self.rows.iter().map(|(cells, tone)| (Part::Row(*tone), line(&mut cells.iter()))));
        if let Some(total) = &self.total {
            let rule = widths.iter().sum::<usize>() + gap * widths.len().saturating_sub(1);
            lines.push((Part::Rule, "-".repeat(rule)));
            lines.push((Part::Total, line(&mut total.iter())));
        }
        lines
    }

    /// The text, every line ended. Columns are two spaces apart, or one where two would not fit into
    /// `columns` characters.
    pub(crate) fn render(&self, paint: Paint, columns: Option<usize>) -> String {
        let mut out = String::new();
        for (part, text) in self.lines(columns) {
            out.push_str(&match part {
                Part::Titles | Part::Total => paint.bold(&text),
                Part::Row(Tone::Plain) => text,
                Part::Row(Tone::Dim) | Part::Rule => paint.dim(&text),
                Part::Row(Tone::Warn) => paint.warn(&text),
            });
            out.push('\n');
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Table {
        let mut table = Table::new(&[("NAME", Align::Left), ("N", Align::Right), ("BYTES", Align::Right)]);
        table.row(Tone::Plain, vec!["a".into(), "1".into(), "1,000,000".into()]);
        table.row(Tone::Warn, vec!["longer".into(), "22".into(), "7".into()]);
        table.total(vec!["total".into(), "23".into(), String::new()]);
        table
    }

    #[test]
    fn columns_line_up() {
        let text = sample().render(Paint { on: false }, None);
        let expected = "\
NAME     N      BYTES
a        1  1,000,000
longer  22          7
---------------------
total   23
";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_narrow_terminal_gets_narrow_gaps() {
        let narrow = sample().render(Paint { on: false }, Some(20));
        assert!(narrow.starts_with("NAME    N     BYTES\n"), "{narrow}");
        assert_eq!(
            sample().render(Paint { on: false }, Some(21)),
            sample().render(Paint { on: false }, None)
        );
    }

    #[test]
    fn columns_are_where_they_are_said_to_be() {
        for columns in [None, Some(20)] {
            let (table, lines) = (sample(), sample().lines(columns));
            assert_eq!(lines[2].0, Part::Row(Tone::Warn));
            assert_eq!(&lines[0].1[table.place(2, columns)], "    BYTES", "{columns:?}");
            assert_eq!(&lines[2].1[table.place(0, columns)], "longer");
            assert_eq!(&lines[1].1[table.place(2, columns)], "1,000,000");
        }
        assert_eq!(sample().least_width(), "longer 22 1,000,000".len());
    }

    #[test]
    fn colours_change_nothing_but_colours() {
        let painted = sample().render(Paint { on: true }, None);
        assert!(painted.contains("\x1b[33mlonger"));
        let mut plain = String::new();
        for (index, piece) in painted.split("\x1b[").enumerate() {
            plain.push_str(if index == 0 { piece } else { piece.split_once('m').unwrap().1 });
        }
        assert_eq!(plain, sample().render(Paint { on: false }, None));
    }
}
