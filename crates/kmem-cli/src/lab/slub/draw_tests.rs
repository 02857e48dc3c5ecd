//! The drawings, character by character.

use super::super::picture::tests::sample;
use super::*;
use crate::table::Paint;

const ASCII: Style = Style { ascii: true, paint: Paint { on: false } };

#[test]
fn the_whole_picture() {
    let expected = "\
slab A at 0x1000 (node 0): 4 of 8 objects in use; the slab of CPU 0
     0  ##00##c.
slab B at 0x2000 (node 0): 3 of 8 objects in use; on the list of node 0
     0  1s###sbb
        # in use: 7   0 on CPU 0's stack: 2   1 on CPU 1's stack: 1   c on the list of CPU 0's slab: 1   \
s on the slab's list: 2   b in node 0's barn: 2   . never handed out: 1
CPU 0 (node 0)
  stack (2 of 60)   A2 > A3
  slab              A, list: A6, 1 never handed out
CPU 1 (node 0)
  stack (1 of 60)   B0
  slab              none
node 0
  partial slabs     B (3 of 8 in use)
  barn              2 objects
  free in slab B    B5 > B1
";
    let text = picture(&sample(), ASCII);
    assert_eq!(text, expected, "\n{text}");
}

#[test]
fn unicode_and_colours_draw_the_same_things() {
    let text = picture(&sample(), Style { ascii: false, paint: Paint { on: true } });
    assert!(text.contains("\x1b[32m\u{2588}\u{2588}\x1b[0m\x1b[36m00\x1b[0m"), "{text}");
    assert!(text.contains("A2 \u{2192} A3"));
    assert!(picture(&sample(), ASCII).is_ascii());
}

#[test]
fn groups_of_eight_and_lines_of_thirty_two() {
    let mut states = vec![State::Fresh; 170];
    states[0] = State::InUse;
    states[7] = State::InUse;
    states[8] = State::Stack(3);
    let expected = "     0  #......# 3....... ........ ........
    32  ........ ........ ........ ........
      (3 more such lines)
   160  ........ ..
";
    let text = field(&states, ASCII);
    assert_eq!(text, expected, "\n{text}");
}

#[test]
fn of_many_slabs_those_with_free_objects_are_drawn() {
    let mut many = sample();
    let full = Slab { place: Place::Full, list: vec![], fresh: vec![], ..many.slabs[0].clone() };
    for number in 2..10 {
        many.slabs.push(Slab { name: number, base: 0x1000 * (number + 1), ..full.clone() });
    }
    many.slabs[9].place = Place::NodePartial(0);
    many.slabs[9].list = vec![many.slabs[9].base];
    let text = picture(&many, ASCII);
    let drawn: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix("slab ")).map(|line| &line[..1]).collect();
    assert_eq!(drawn, ["A", "B", "C", "J"], "\n{text}");
    assert!(text.contains("\nand 6 more slabs; 7 of all have nothing free\n"));
    assert!(text.contains("  partial slabs     B (3 of 8 in use) > J (7 of 8 in use)\n"));
}

#[test]
fn a_cache_without_slabs_says_so() {
    let mut empty = sample();
    empty.slabs.clear();
    assert_eq!(picture(&empty, ASCII), "mycache has no slab.\n");
}

#[test]
fn the_bytes_of_an_object() {
    let text = layout(&sample().facts, ASCII);
    let expected = "\
one object, 24 bytes from the next
  byte    0       8       16
  in use  oooooooooooooooooooo----
  free    ........>>>>>>>>....----
          o 20 bytes for the user   - 4 of padding   > free pointer at 8
";
    assert_eq!(text, expected, "\n{text}");
}

#[test]
fn large_objects_are_scaled() {
    let facts = Facts { object_size: 1000, size: 1024, free_pointer: 504, ..sample().facts };
    let text = layout(&facts, ASCII);
    assert!(text.starts_with("one object, 1024 bytes from the next, 16 bytes a character\n"), "{text}");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[1], "  byte    0               256             512             768");
    assert_eq!(lines[2], format!("  in use  {}-", "o".repeat(63)));
    assert_eq!(lines[3], format!("  free    {}>{}-", ".".repeat(31), ".".repeat(31)));
}
