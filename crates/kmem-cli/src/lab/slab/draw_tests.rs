//! The drawings, character by character.

use kmem_core::view::picture::slab::{NodePicture, SlabPicture};

use super::super::picture::{Cpu, Facts, Node};
use super::*;
use crate::table::Paint;

const ASCII: Style = Style { ascii: true, paint: Paint { on: false } };

/// A slab of ten objects at colour 64: two in use, two in CPU 0's array, one in the shared array, five free.
fn sample() -> Picture {
    let base = 0x1000;
    let at = |numbers: &[usize]| numbers.iter().map(|n| base + 64 + n * 24).collect::<Vec<_>>();
    let is = SlabPicture {
        base,
        pages: 1,
        node: 0,
        list: List::Partial,
        position: 0,
        objects: 10,
        active: 5,
        first: 64,
        index: IndexHome::OnSlab(4086),
    };
    let entries = vec![0, 1, 2, 3, 4, 5, 6, 7, 8, 9];
    let node = NodePicture {
        free_objects: 5,
        free_limit: 70,
        shared_room: 16,
        shared_touched: false,
        free_touched: false,
        next_reap: 0,
    };
    Picture {
        facts: Facts {
            name: "mycache".into(),
            size: 24,
            objects: 10,
            pages: 1,
            index_bytes: 10,
            linked: false,
            colours: 4,
            colour_step: 64,
            tunables: [8, 4, 4],
        },
        slabs: vec![Slab { name: 0, is, order: entries[5..].to_vec(), entries, index_cache: None }],
        cpus: vec![Cpu { node: 0, touched: true, array: at(&[0, 2]) }],
        nodes: vec![Node { is: node, shared: at(&[4]), aliens: Vec::new() }],
    }
}

#[test]
fn the_whole_picture() {
    sample().check().unwrap();
    let expected = "\
slab A at 0x1000 (node 0, partial): 5 of 10 objects out; the first begins at byte 64
     0  0#0#s... ..
  index             in the slab, at byte 4086
    entries         0 1 2 3 4 [5 6 7 8 9]
                    active 5: the entry there is taken next, A5
        # in use: 2   0 in CPU 0's array: 2   s in node 0's shared array: 1
        . free in the slab: 5
CPU 0 (node 0)
  array             2 of 8, batchcount 4, touched
                    oldest A0 > A2 newest
node 0
  shared array      1 of 16
                    A4
  slabs_partial     A (5 of 10 out)
  slabs_full        none
  slabs_free        none
  free objects      5 in slabs, more than 70 are given back
";
    let text = picture(&sample(), ASCII);
    assert_eq!(text, expected, "\n{text}");
}

#[test]
fn an_index_is_where_it_is() {
    let draw = |index: IndexHome, order: Vec<u32>| {
        let mut picture = sample();
        picture.slabs[0].is.index = index;
        picture.slabs[0].order = order;
        picture.slabs[0].index_cache = Some("sheaf-64".into());
        super::picture(&picture, ASCII)
    };
    let text = draw(IndexHome::OffSlab(0x9000), vec![5]);
    assert!(text.contains("index             outside, at 0x9000, an object of sheaf-64\n"), "{text}");
    let text = draw(IndexHome::InObject(9), vec![9]);
    assert!(text.contains("index             in the free object A9\n"), "{text}");
    assert!(text.contains("i free, holds the index: 1"), "{text}");
}

#[test]
fn a_cache_without_slabs_says_so() {
    let mut empty = sample();
    empty.slabs.clear();
    assert_eq!(picture(&empty, ASCII), "mycache has no slab.\n");
}

#[test]
fn colours_change_nothing_but_colours() {
    let style = Style { ascii: true, paint: Paint { on: true } };
    let coloured = picture(&sample(), style);
    let mut plain = String::new();
    let mut rest = coloured.as_str();
    while let Some((before, after)) = rest.split_once('\x1b') {
        plain.push_str(before);
        rest = after.split_once('m').unwrap().1;
    }
    plain.push_str(rest);
    assert_ne!(coloured, plain);
    assert_eq!(plain, picture(&sample(), ASCII));
}
