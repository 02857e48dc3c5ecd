//! What is told of a sweep: a table of ranges, the places where the program crashed, and what it came to.

use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;

use super::Step;
use super::judge::{Baseline, Verdict};
use crate::cli::SweepArgs;
use crate::symbolize::Names;
use crate::table::{Align, Paint, Table, Tone};
use crate::units::{count, duration};

/// Calls of a stack that are shown.
const SHOWN: usize = 12;
/// Calls that tell one place from another.
const TOLD_APART: usize = 6;

/// Everything that is told.
pub(super) struct Told<'a> {
    pub(super) args: &'a SweepArgs,
    pub(super) program: String,
    /// Its file, whose code needs no mention.
    pub(super) file: PathBuf,
    pub(super) baseline: &'a Baseline,
    pub(super) steps: &'a [Step],
    pub(super) took: Duration,
}

/// A place where refusals did the same harm.
struct Place<'a> {
    verdict: Verdict,
    first: &'a Step,
    numbers: Vec<u64>,
}

impl Told<'_> {
    /// The text.
    pub(super) fn render(&self, paint: Paint) -> String {
        let places = self.places();
        let mut out = self.head(paint);
        let mut names = Names::new(&self.file);
        if !self.steps.is_empty() {
            out.push_str(&self.ranges(&places).render(paint, None));
        }
        for (letter, place) in ('A'..).zip(&places) {
            self.place(&mut out, paint, &mut names, letter, place);
        }
        out.push('\n');
        out.push_str(&self.sum());
        out
    }

    fn head(&self, paint: Paint) -> String {
        let base = self.baseline;
        let requests = match base.asked {
            Some(asked) => format!("{} requests for memory", count(asked)),
            None => "an unknown number of requests for memory".to_owned(),
        };
        let since = if self.args.from_start { "" } else { " since main" };
        let line = format!("{}: {requests}{since}, exit status {}", self.program, base.status);
        let mut out = format!("{}\n", paint.bold(&line));
        for (same, what) in [
            (
                base.steady,
                "the number of requests differs from run to run: numbers stand for others each time",
            ),
            (base.out.is_some(), "standard output differs from run to run, and is not compared"),
            (base.err.is_some(), "standard error differs from run to run, and is not compared"),
        ] {
            if !same {
                let _ = writeln!(out, "{}", paint.warn(what));
            }
        }
        out.push('\n');
        out
    }

    /// Crashes, hangs and silent changes, by what happened and who asked.
    fn places(&self) -> Vec<Place<'_>> {
        let mut places: Vec<Place<'_>> = Vec::new();
        for step in self.steps.iter().filter(|step| step.verdict.is_remarkable()) {
            let same = |place: &&mut Place<'_>| place.verdict == step.verdict && alike(place.first, step);
            match places.iter_mut().find(same) {
                Some(place) => place.numbers.push(step.n),
                None => places.push(Place { verdict: step.verdict, first: step, numbers: vec![step.n] }),
            }
        }
        places
    }

    fn ranges(&self, places: &[Place<'_>]) -> Table {
        let letter = |step: &Step| {
            ('A'..).zip(places).find(|(_, place)| place.numbers.contains(&step.n)).map(|(letter, _)| letter)
        };
        let mut table =
            Table::new(&[("FAILED", Align::Right), ("RUNS", Align::Right), ("OUTCOME", Align::Left)]);
        let mut rest = self.steps;
        while let Some(first) = rest.first() {
            let alike = |step: &&Step| step.verdict == first.verdict && letter(step) == letter(first);
            let len = rest.iter().take_while(alike).count();
            let last = &rest[len - 1];
            let range = if len == 1 { first.n.to_string() } else { format!("{}-{}", first.n, last.n) };
            let tone = if first.verdict.is_remarkable() { Tone::Warn } else { Tone::Plain };
            let place = letter(first).map(|letter| format!(", at {letter}")).unwrap_or_default();
            table.row(tone, vec![range, len.to_string(), first.verdict.words() + &place]);
            rest = &rest[len..];
        }
        table
    }

    fn place(&self, out: &mut String, paint: Paint, names: &mut Names, letter: char, place: &Place<'_>) {
        let failure = &place.first.failure;
        let numbers = numbers(&place.numbers);
        let title = format!("{letter}  {}, when request {numbers} failed", place.verdict.words());
        let _ = writeln!(out, "\n{}", paint.bold(&title));
        let class = if failure.cache.is_empty() { String::new() } else { format!(" ({})", failure.cache) };
        let _ = writeln!(out, "   request {}: {} bytes{class}, asked for by", place.first.n, failure.bytes);
        for (offset, file) in failure.frames.iter().take(SHOWN) {
            let _ = writeln!(out, "     {}", names.line(file, *offset));
        }
        if failure.frames.is_empty() {
            out.push_str("     (nobody can tell: there is no unwinder)\n");
        }
    }

    fn sum(&self) -> String {
        let number =
            |wanted: fn(Verdict) -> bool| self.steps.iter().filter(|step| wanted(step.verdict)).count();
        let parts = [
            (number(|v| v == Verdict::Same), "as without"),
            (number(|v| matches!(v, Verdict::Failed(_))), "clean errors"),
            (number(|v| matches!(v, Verdict::Told | Verdict::ChangedTold)), "told and gone on"),
            (number(|v| matches!(v, Verdict::Crashed(_))), "crashes"),
            (number(|v| v == Verdict::Hung), "hangs"),
            (number(|v| v == Verdict::Changed), "silent changes"),
        ];
        let parts: Vec<String> = parts.iter().map(|(number, what)| format!("{number} {what}")).collect();
        let took = duration(self.took);
        let mut out = format!("{} failures in {took}: {}\n", self.steps.len(), parts.join(", "));
        if let Some(step) = self.steps.iter().find(|step| step.verdict.is_bad()) {
            let since = if self.args.from_start { "" } else { ",since=main" };
            let only = self.args.only.as_deref().map(|only| format!(",{only}")).unwrap_or_default();
            let _ =
                writeln!(out, "again: kmem run --fail 'nth={}{since}{only}' -- {} …", step.n, self.program);
        }
        out
    }
}

/// Asked for by the same calls, as far as places are told apart.
fn alike(left: &Step, right: &Step) -> bool {
    let calls = |step: &Step| step.failure.frames.iter().take(TOLD_APART).cloned().collect::<Vec<_>>();
    calls(left) == calls(right)
}

/// `3, 5-9, 12`, the first few.
fn numbers(all: &[u64]) -> String {
    const MOST: usize = 8;
    let mut parts: Vec<(u64, u64)> = Vec::new();
    for &n in all {
        match parts.last_mut() {
            Some((_, last)) if *last + 1 == n => *last = n,
            _ => parts.push((n, n)),
        }
    }
    let shown = parts.iter().take(MOST).map(|&(first, last)| match last - first {
        0 => first.to_string(),
        _ => format!("{first}-{last}"),
    });
    let mut text = shown.collect::<Vec<_>>().join(", ");
    if parts.len() > MOST {
        text.push_str(", …");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::numbers;

    #[test]
    fn numbers_in_a_row_are_a_range() {
        assert_eq!(numbers(&[3]), "3");
        assert_eq!(numbers(&[1, 2, 3, 7, 9, 10]), "1-3, 7, 9-10");
        assert!(numbers(&(0..40).map(|n| n * 2).collect::<Vec<_>>()).ends_with("14, …"));
    }
}
