//! The drawings, character by character.

use kmem_core::engine::slob::PageSight;

use super::super::picture::Run;
use super::*;
use crate::table::Paint;

const ASCII: Style = Style { ascii: true, paint: Paint { on: false } };

fn run(offset: usize, bytes: usize, what: What) -> Run {
    Run { offset, bytes, what }
}

fn sample() -> Page {
    let is = PageSight { base: 0x1000, node: 0, place: Where::Ring(0), free: 3972, longest: 3960, blocks: 4 };
    let known = [
        run(40, 20, What::Object),
        run(60, 12, What::Free),
        run(72, 64, What::Block(56)),
        run(136, 3960, What::Free),
    ];
    Page::new(0, is, &known)
}

#[test]
fn a_page() {
    let lists = Picture { pages: vec![sample()] };
    lists.check().unwrap();
    let expected = "\
page A at 0x1000 (node 0): 4 blocks, 3972 bytes free; on the list of small blocks
     0  ookkk... ........ ........ ........ ........ ........ ........ ........
  1024  ........ ........ ........ ........ ........ ........ ........ ........
          units     bytes
      o     0..20       40  others' blocks
      #    20..30       20  an object of the cache
      .    30..36       12  free; the next free block begins at 68
      k    36..68       64  kmalloc(56): 8 of header, 56 for the user
      .    68..2048   3960  free; the last
";
    let text = page(&sample(), ASCII);
    assert_eq!(text, expected, "\n{text}");
}

#[test]
fn the_lists_stand_in_the_order_of_the_search() {
    let mut other = sample();
    other.name = 1;
    other.is.base = 0x2000;
    let mut full = sample();
    full.is.place = Where::Full;
    let picture = Picture { pages: vec![other, sample(), full] };
    let expected = "\
lists of pages with room, from where the next search begins
  small (< 256)     B (3972 free) > A (3972 free)
  medium (< 1024)   none
  large             none
  on no list        1
";
    assert_eq!(lists(&picture, ASCII), expected);
}

#[test]
fn of_many_parts_those_in_the_middle_are_left_out() {
    let mut page = sample();
    let known: Vec<Run> =
        (0..128).map(|i| run(i * 32, 32, if i % 2 == 0 { What::Object } else { What::Free })).collect();
    page.is.free = 64 * 32;
    page = Page::new(0, page.is, &known);
    let text = super::page(&page, ASCII);
    assert!(text.contains("        ... 116 more parts ...\n"), "{text}");
    assert_eq!(text.lines().count(), 4 + 9 + 1 + 3);
}

#[test]
fn a_damaged_picture_is_noticed() {
    let check = |change: fn(&mut Page)| {
        let mut page = sample();
        change(&mut page);
        Picture { pages: vec![page] }.check()
    };
    assert_eq!(check(|_| ()), Ok(()));
    assert_eq!(check(|page| page.is.free += 2).unwrap_err(), "page A: 3972 bytes are free, 3974 counted");
    assert_eq!(check(|page| page.runs[2].offset = 58).unwrap_err(), "page A: a part begins at 58, not 60");
    assert!(check(|page| page.is.place = Where::Full).unwrap_err().contains("3972 bytes free and Full"));
    let joined = |page: &mut Page| {
        page.runs[4] = run(136, 8, What::Free);
        page.runs.push(run(144, 3952, What::Free));
    };
    assert_eq!(check(joined).unwrap_err(), "page A: two free parts were not joined");
}
