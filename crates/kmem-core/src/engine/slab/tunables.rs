//! How many free objects SLAB keeps at hand: the defaults, what an observer may change, and what reaping takes.
//!
//! Three numbers steer a cache. Each CPU has an array of at most `limit` free objects; objects move between it
//! and the node `batch` at a time; and each node has an array that its CPUs share, of `shared * batch` objects.
//! A line `name limit batch shared` written to the listing of caches changes them; see [`Change::parse`].
//!
//! # Invariants
//! - I-TUNE-1: `1 <= batch <= limit`. Both the defaults and an accepted change keep it.
//!
//! Pure functions: no memory, no lock, no state.

use crate::engine::geometry::Rules;
use crate::platform::PAGE_SIZE;

/// Objects a refill brings at most to a CPU whose array nobody used since the reaper last passed.
pub const BATCH_REFILL_LIMIT: u32 = 16;
/// Objects of another node that a CPU's node gathers before they go home.
pub const ALIEN_LIMIT: u32 = 12;
/// The most bytes a line of changes may have, its newline included.
pub const LINE_MAX: usize = 128;
/// Seconds from one pass of a CPU's reaper to the next.
pub const REAP_CPU_SECONDS: u64 = 2;
/// Seconds from one look at a node's shared array and free slabs to the next.
pub const REAP_NODE_SECONDS: u64 = 4;

/// In how many passes a quiet cache is to lose all it keeps.
const PASSES: usize = 5;
/// The limit where every object is checked: a damaged free object should soon be found.
const DEBUG_LIMIT: u32 = 32;
/// The share of the shared array in batches, unless a change says otherwise.
const SHARED_FACTOR: u32 = 8;

/// The three numbers of one cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tunables {
    /// Free objects a CPU may keep.
    pub limit: u32,
    /// Objects that move at a time.
    pub batch: u32,
    /// Batches that the array shared by a node's CPUs holds; 0: there is none.
    pub shared: u32,
}

impl Tunables {
    /// What a cache with slots of `size` bytes begins with. One CPU shares with nobody, and objects
    /// of more than a page are too dear to keep.
    #[must_use]
    pub const fn default_for(size: usize, rules: &Rules) -> Self {
        let mut limit = match size {
            131_073.. => 1,
            _ if size > PAGE_SIZE => 8,
            1025.. => 24,
            257.. => 54,
            _ => 120,
        };
        if rules.debug && limit > DEBUG_LIMIT {
            limit = DEBUG_LIMIT;
        }
        let shared = if size <= PAGE_SIZE && rules.cpus_possible > 1 { SHARED_FACTOR } else { 0 };
        Self { limit, batch: limit.div_ceil(2), shared }
    }

    /// Objects the array shared by a node's CPUs holds.
    #[must_use]
    pub const fn shared_capacity(&self) -> usize {
        self.shared as usize * self.batch as usize
    }

    /// Objects a refill wants for a CPU whose array was `touched` or not since the reaper last passed.
    #[must_use]
    pub const fn refill(&self, touched: bool) -> u32 {
        if !touched && self.batch > BATCH_REFILL_LIMIT { BATCH_REFILL_LIMIT } else { self.batch }
    }

    /// Objects an array for one other node holds; 0: objects of other nodes go home one by one.
    #[must_use]
    pub const fn alien_limit(&self, nodes: usize) -> u32 {
        if nodes > 1 && self.limit > 1 { ALIEN_LIMIT } else { 0 }
    }

    /// Free objects in its slabs that a node with `cpus` CPUs keeps, when a slab has `objects` of them: a batch
    /// for each CPU and one more, and a slab. Beyond that an empty slab goes back to the page allocator.
    #[must_use]
    pub const fn free_limit(&self, cpus: usize, objects: usize) -> usize {
        (1 + cpus) * self.batch as usize + objects
    }
}

/// Objects the reaper takes from an array of `limit` that holds `available` and was not touched: a fifth of
/// the limit, so that five quiet passes empty it, but not more than half of a nearly empty one.
#[must_use]
pub const fn reap_objects(limit: usize, available: usize) -> usize {
    let share = limit.div_ceil(PASSES);
    if share > available { available.div_ceil(2) } else { share }
}

/// Free slabs the reaper destroys on a node whose free slabs nobody touched: what holds a fifth of `free_limit`.
///
/// # Panics
/// When `objects`, those in a slab, is 0.
#[must_use]
pub const fn reap_slabs(free_limit: usize, objects: usize) -> usize {
    free_limit.div_ceil(PASSES * objects)
}

/// The line has not the form `name limit batch shared`: the writer gets `EINVAL`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadLine;

/// One line of changes, taken apart.
///
/// Whoever applies it first looks the cache up, `EINVAL` when there is none; then [`Change::tunables`] tells
/// whether the numbers make sense. Senseless ones are not an error: the write succeeds and changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change<'a> {
    /// Name of the cache: what stands before the first space.
    pub name: &'a [u8],
    /// Limit, batch and shared factor as written.
    numbers: [i32; 3],
}

impl<'a> Change<'a> {
    /// Takes a line apart. It ends at its first zero byte; what follows the third number is not looked at.
    ///
    /// # Errors
    /// [`BadLine`]: more than [`LINE_MAX`] bytes, no space, or fewer than three decimal numbers of 32 bits.
    pub fn parse(line: &'a [u8]) -> Result<Self, BadLine> {
        if line.len() > LINE_MAX {
            return Err(BadLine);
        }
        let end = line.iter().position(|byte| *byte == 0).unwrap_or(line.len());
        let line = &line[..end];
        let space = line.iter().position(|byte| *byte == b' ').ok_or(BadLine)?;
        let mut rest = &line[space + 1..];
        let mut numbers = [0; 3];
        for number in &mut numbers {
            (*number, rest) = leading_number(rest).ok_or(BadLine)?;
        }
        Ok(Self { name: &line[..space], numbers })
    }

    /// The new numbers, or `None` when they make no sense (I-TUNE-1, or a negative factor) and the line is
    /// silently ignored.
    #[must_use]
    pub const fn tunables(&self) -> Option<Tunables> {
        let [limit, batch, shared] = self.numbers;
        if limit < 1 || batch < 1 || batch > limit || shared < 0 {
            return None;
        }
        Some(Tunables { limit: limit as u32, batch: batch as u32, shared: shared as u32 })
    }
}

/// The decimal number that `text` begins with after white space, and what follows it.
fn leading_number(text: &[u8]) -> Option<(i32, &[u8])> {
    // Unlike `trim_ascii_start`, white space includes the vertical tab, as in C.
    let start = text.iter().position(|byte| !matches!(byte, b' ' | b'\t'..=b'\r'))?;
    let text = &text[start..];
    let (negative, digits) = match text.strip_prefix(b"-") {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    let count = digits.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if count == 0 {
        return None;
    }
    let mut value: i64 = 0;
    for digit in &digits[..count] {
        // Far beyond 32 bits it stays there, and is refused below.
        value = value.saturating_mul(10).saturating_add(i64::from(digit - b'0'));
    }
    let value = if negative { -value } else { value };
    Some((i32::try_from(value).ok()?, &digits[count..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(line: &str) -> Result<Option<Tunables>, BadLine> {
        Change::parse(line.as_bytes()).map(|change| change.tunables())
    }

    #[test]
    fn defaults_by_size() {
        let four = Rules::LINUX_6_1.with_cpus(4);
        let of = |size, rules: &Rules| {
            let t = Tunables::default_for(size, rules);
            (t.limit, t.batch, t.shared)
        };
        for (size, expected) in [
            (8, (120, 60, 8)),
            (256, (120, 60, 8)),
            (257, (54, 27, 8)),
            (1024, (54, 27, 8)),
            (1025, (24, 12, 8)),
            (4096, (24, 12, 8)),
            (4097, (8, 4, 0)),
            (131_072, (8, 4, 0)),
            (131_073, (1, 1, 0)),
        ] {
            assert_eq!(of(size, &four), expected, "{size}");
        }
        assert_eq!(of(8, &Rules::LINUX_6_1), (120, 60, 0));
        let debug = Rules { debug: true, ..four };
        assert_eq!(
            [of(8, &debug), of(1024, &debug), of(2048, &debug)],
            [(32, 16, 8), (32, 16, 8), (24, 12, 8)]
        );
        assert_eq!(Tunables::default_for(8, &four).shared_capacity(), 480);
    }

    #[test]
    fn refills_and_reserves() {
        let t = Tunables { limit: 120, batch: 60, shared: 8 };
        assert_eq!((t.refill(true), t.refill(false)), (60, 16));
        let small = Tunables { limit: 8, batch: 4, shared: 0 };
        assert_eq!((small.refill(true), small.refill(false)), (4, 4));
        assert_eq!((t.alien_limit(1), t.alien_limit(2)), (0, 12));
        assert_eq!(Tunables { limit: 1, batch: 1, shared: 0 }.alien_limit(2), 0);
        assert_eq!(t.free_limit(4, 64), 5 * 60 + 64);
    }

    #[test]
    fn five_passes_empty_an_array() {
        for limit in [1, 2, 8, 24, 54, 120, 1000] {
            let mut available = limit;
            let mut passes = 0;
            while available > 0 {
                let taken = reap_objects(limit, available);
                assert!((1..=available).contains(&taken));
                available -= taken;
                passes += 1;
            }
            // The last pieces go by halves, down to one at a time.
            assert!(passes <= 5 + 10, "{limit}: {passes}");
        }
        assert_eq!((reap_objects(120, 120), reap_objects(120, 24), reap_objects(120, 23)), (24, 24, 12));
        assert_eq!((reap_objects(54, 11), reap_objects(54, 10), reap_objects(54, 0)), (11, 5, 0));
        assert_eq!((reap_slabs(364, 64), reap_slabs(320, 64), reap_slabs(321, 64)), (2, 1, 2));
    }

    #[test]
    fn lines_that_change_something() {
        let new = Ok(Some(Tunables { limit: 100, batch: 50, shared: 4 }));
        for line in [
            "c 100 50 4",
            "c 100 50 4\n",
            "c \t100\n50\x0b4",
            "c 100 50 4 5 x",
            "c 100 50 4x",
            "c 0100 050 04",
        ] {
            assert_eq!(change(line), new, "{line:?}");
        }
        assert_eq!(Change::parse(b"a-b.c 1 1 0").expect("a line").name, b"a-b.c");
        assert_eq!(Change::parse(b" 1 1 0").expect("a cache without a name").name, b"");
        assert_eq!(change("c 2147483647 1 0").map(|t| t.map(|t| t.limit)), Ok(Some(i32::MAX as u32)));
        assert_eq!(change("c 1 1 0\0rest"), Ok(Some(Tunables { limit: 1, batch: 1, shared: 0 })));
    }

    #[test]
    fn lines_without_sense_change_nothing() {
        for line in ["c 0 0 0", "c 0 1 0", "c 10 0 0", "c 10 11 0", "c 10 5 -1", "c -10 -20 0", "c -0 1 1"] {
            assert_eq!(change(line), Ok(None), "{line}");
        }
    }

    #[test]
    fn lines_that_are_refused() {
        for line in [
            "",
            "c",
            "c ",
            "c 1",
            "c 1 1",
            "c 1 1 ",
            "c 1 1 x",
            "c x 1 1",
            "c 1,1,1",
            "c +1 1 1",
            "c - 1 1 1",
            "c 0x10 1 1",
            "c 4294967297 1 1",
            "c 99999999999999999999999 1 1",
            "c\t1 1 1",
            "c\0 1 1 1",
        ] {
            assert_eq!(change(line), Err(BadLine), "{line:?}");
        }
        let longest = format!("c 1 1 0{}", " ".repeat(LINE_MAX - 7));
        assert_eq!((longest.len(), change(&longest).is_ok()), (LINE_MAX, true));
        assert_eq!(change(&format!("{longest} ")), Err(BadLine));
    }
}
