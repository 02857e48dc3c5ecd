//! The grammar of fault injection.
//!
//! ```text
//! text  := part { ";" part }
//! part  := [ kind ":" ] item { "," item }
//!        | kind "=" interval "," probability "," space "," times          a kernel's boot option
//! kind  := malloc | failmalloc | slab | failslab | page | fail_page_alloc       without one: malloc
//! item  := name [ "=" value ]
//! ```
//!
//! | item | what it says | without it |
//! |---|---|---|
//! | `probability=P` | percent, with up to four decimals | 100 |
//! | `interval=N` | only each N-th request can fail | 1 |
//! | `times=N` | at most N failures; -1: any number | -1 |
//! | `space=BYTES` | so many bytes are served first | 0 |
//! | `nth=N` | exactly the N-th request fails; the four above count for nothing | |
//! | `seed=N` | the draws of `probability` | 0 |
//! | `size=A-B` | requests of A to B bytes (`size=A`: exactly; `A-`: at least; `-B`: at most) | any |
//! | `cache=PATTERNS` | requests that such a cache would serve: names or prefixes with a star, separated by a bar | any |
//! | `cache-filter` | caches with the debug letter A | all |
//! | `task=N` | the thread with this number; `task=main`: the first; `task=each`: `nth` counts each thread's own | all |
//! | `stack=PATTERNS`, `no-stack=PATTERNS` | requests with, without such a call on their stack | any |
//! | `stacktrace-depth=N` | calls that are looked at for that, to 32 | 32 |
//! | `ignore-gfp-wait` | not requests that may wait | all |
//! | `min-order=N` | pages: requests for at least 2^N | 0 |
//! | `program=PATTERNS` | processes of such a name | all |
//! | `since=main` | requests from `main` on; `since=start`: all | start |
//! | `verbose=N` | 0: silent; 1: failures are told; 2: with their stack | 0 |
//!
//! Numbers of bytes may end in K, M or G. What is or is not may be written `=Y`, `=N`, `=1`, `=0`. The kernel's form
//! has the kernel's defaults ([`Attributes::KERNEL`]).
//!
//! Nothing is allocated: patterns are parts of the text.

use core::fmt;

use super::{Attributes, CERTAIN, Kind, Task};

/// What cannot be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptionError<'a> {
    /// No such kind.
    Kind(&'a str),
    /// No such item.
    Name(&'a str),
    /// A value that is none of this item.
    Value(&'a str),
    /// The kernel's form has four numbers.
    Boot(&'a str),
    /// Two parts are for one kind.
    Twice(&'static str),
}

impl fmt::Display for OptionError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kind(text) => write!(f, "'{text}' is nothing that can fail: malloc, slab or page"),
            Self::Name(text) => write!(f, "'{text}' is no property of failures"),
            Self::Value(text) => write!(f, "'{text}' has a value that it cannot have"),
            Self::Boot(text) => write!(f, "'{text}' is not interval,probability,space,times"),
            Self::Twice(kind) => write!(f, "{kind} has two rules"),
        }
    }
}

impl core::error::Error for OptionError<'_> {}

/// The rules of a text, one for each kind of [`Kind::ALL`] that it names. `main`: the number of the first thread.
///
/// # Errors
/// The first thing that cannot be understood.
pub fn parse(text: &'static str, main: u32) -> Result<[Option<Attributes>; 3], OptionError<'static>> {
    let mut rules = [None; 3];
    for part in text.split(';').filter(|part| !part.is_empty()) {
        let (kind, rule) = parse_part(part, main)?;
        let place = &mut rules[kind as usize];
        if place.is_some() {
            return Err(OptionError::Twice(kind.name()));
        }
        *place = Some(rule);
    }
    Ok(rules)
}

fn parse_part(part: &'static str, main: u32) -> Result<(Kind, Attributes), OptionError<'static>> {
    if let Some((kind, numbers)) = part.split_once('=').and_then(|(name, rest)| Some((kind_of(name)?, rest)))
    {
        return Ok((kind, boot(numbers)?));
    }
    // A colon before the first sign of equality; one in a pattern is the pattern's.
    let head = part.split('=').next().unwrap_or_default();
    let (kind, items) = match head.split_once(':') {
        Some((name, _)) => (kind_of(name).ok_or(OptionError::Kind(name))?, &part[name.len() + 1..]),
        None => (Kind::Malloc, part),
    };
    let mut rule = Attributes::ALWAYS;
    items.split(',').filter(|item| !item.is_empty()).try_for_each(|item| set(&mut rule, item, main))?;
    Ok((kind, rule))
}

fn kind_of(name: &str) -> Option<Kind> {
    Some(match name {
        "malloc" | "failmalloc" => Kind::Malloc,
        "slab" | "failslab" => Kind::Slab,
        "page" | "fail_page_alloc" => Kind::Page,
        _ => return None,
    })
}

/// The kernel's four numbers.
fn boot(text: &'static str) -> Result<Attributes, OptionError<'static>> {
    let mut numbers = text.split(',');
    let mut next = || numbers.next().and_then(|number| number.parse::<i64>().ok());
    match (next(), next(), next(), next(), numbers.next()) {
        (Some(interval), Some(probability), Some(space), Some(times), None)
            if interval >= 0 && space >= 0 && times >= -1 && (0..=100).contains(&probability) =>
        {
            Ok(Attributes {
                interval: interval as u64,
                probability: probability as u32 * (CERTAIN / 100),
                space: space as u64,
                times: u64::try_from(times).unwrap_or(u64::MAX),
                ..Attributes::KERNEL
            })
        }
        _ => Err(OptionError::Boot(text)),
    }
}

fn set(rule: &mut Attributes, item: &'static str, main: u32) -> Result<(), OptionError<'static>> {
    let (name, value) = item.split_once('=').map_or((item, None), |(name, value)| (name, Some(value)));
    let some = |value: Option<&'static str>| value.filter(|value| !value.is_empty());
    let ok = match name {
        "probability" => put(&mut rule.probability, value.and_then(percent)),
        "interval" => put(&mut rule.interval, number(value)),
        "times" if value == Some("-1") => put(&mut rule.times, Some(u64::MAX)),
        "times" => put(&mut rule.times, number(value)),
        "space" => put(&mut rule.space, value.and_then(bytes)),
        "nth" => put(&mut rule.nth, number(value).filter(|&nth| nth > 0)),
        "seed" => put(&mut rule.seed, number(value)),
        "size" => put(&mut rule.sizes, value.and_then(range)),
        "cache" => put(&mut rule.caches, some(value).map(Some)),
        "cache-filter" => put(&mut rule.marked_only, truth(value)),
        "task" if value == Some("each") => put(&mut rule.task, Some(Task::Each)),
        "task" if value == Some("main") => put(&mut rule.task, Some(Task::Thread(main))),
        "task" => put(&mut rule.task, number(value).and_then(|n| u32::try_from(n).ok()).map(Task::Thread)),
        "stack" => put(&mut rule.stack, some(value).map(Some)),
        "no-stack" => put(&mut rule.not_stack, some(value).map(Some)),
        "stacktrace-depth" => put(&mut rule.depth, number(value).map(|depth| depth as usize)),
        "ignore-gfp-wait" => put(&mut rule.ignore_gfp_wait, truth(value)),
        "min-order" => put(&mut rule.min_order, number(value).and_then(|order| u32::try_from(order).ok())),
        "program" => put(&mut rule.program, some(value).map(Some)),
        "since" => put(
            &mut rule.since_main,
            match value {
                Some("main") => Some(true),
                Some("start") => Some(false),
                _ => None,
            },
        ),
        "verbose" => put(&mut rule.verbose, number(value).map(|level| level.min(2) as u8)),
        _ => return Err(OptionError::Name(name)),
    };
    if ok { Ok(()) } else { Err(OptionError::Value(item)) }
}

fn put<T>(place: &mut T, value: Option<T>) -> bool {
    value.map(|value| *place = value).is_some()
}

fn number(value: Option<&str>) -> Option<u64> {
    value?.parse().ok()
}

fn truth(value: Option<&str>) -> Option<bool> {
    match value {
        None | Some("Y" | "y" | "1") => Some(true),
        Some("N" | "n" | "0") => Some(false),
        Some(_) => None,
    }
}

/// Percent with up to four decimals, in millionths.
fn percent(text: &str) -> Option<u32> {
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    if part.is_empty() || part.len() > 4 || !part.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let scale = 10_u32.pow(4 - part.len() as u32);
    let whole: u32 = whole.parse().ok().filter(|&whole| whole <= 100)?;
    let millionths = whole * (CERTAIN / 100) + part.parse::<u32>().ok()? * scale;
    (millionths <= CERTAIN).then_some(millionths)
}

fn bytes(text: &str) -> Option<u64> {
    let shift = match text.bytes().last()? {
        b'K' | b'k' => 10,
        b'M' | b'm' => 20,
        b'G' | b'g' => 30,
        _ => return text.parse().ok(),
    };
    let number: u64 = text[..text.len() - 1].parse().ok()?;
    number.checked_mul(1 << shift)
}

/// `A-B`, `A-`, `-B`, `A`.
fn range(text: &str) -> Option<(usize, usize)> {
    let bytes = |text| bytes(text).and_then(|bytes| usize::try_from(bytes).ok());
    let (first, last) = match text.split_once('-') {
        None => (bytes(text)?, bytes(text)?),
        Some(("", last)) => (0, bytes(last)?),
        Some((first, "")) => (bytes(first)?, usize::MAX),
        Some((first, last)) => (bytes(first)?, bytes(last)?),
    };
    (first <= last).then_some((first, last))
}

#[cfg(test)]
mod tests;
