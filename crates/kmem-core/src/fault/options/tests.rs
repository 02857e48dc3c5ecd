//! The grammar, item by item.

use super::*;

fn rule(text: &'static str) -> Attributes {
    parse(text, 7).unwrap_or_else(|error| panic!("{text}: {error}"))[Kind::Malloc as usize]
        .unwrap_or_else(|| panic!("{text}: no rule for malloc"))
}

#[test]
fn parts_are_for_their_kinds() {
    let [slab, page, malloc] = parse("probability=1;slab:nth=3;;fail_page_alloc:min-order=2", 0).unwrap();
    assert_eq!(malloc.unwrap().probability, 10_000);
    assert_eq!(slab.unwrap().nth, 3);
    assert_eq!(page.unwrap().min_order, 2);
    assert!(parse("", 0).unwrap().iter().all(Option::is_none));
    assert!(parse("slab:", 0).unwrap()[0].is_some(), "a kind alone: all of it fails");
    assert_eq!(parse("nth=1;malloc:nth=2", 0).unwrap_err(), OptionError::Twice("failmalloc"));
    assert_eq!(parse("heap:nth=1", 0).unwrap_err(), OptionError::Kind("heap"));
}

#[test]
fn the_kernels_form_has_the_kernels_defaults() {
    let slab = parse("failslab=10,50,4096,-1", 0).unwrap()[0].unwrap();
    assert_eq!((slab.interval, slab.probability, slab.space, slab.times), (10, 500_000, 4096, u64::MAX));
    assert!(slab.ignore_gfp_wait && slab.verbose == 2 && slab.min_order == 1);
    let page = parse("fail_page_alloc=1,0,0,2", 0).unwrap()[1].unwrap();
    assert_eq!((page.probability, page.times), (0, 2));
    for bad in ["failslab=1,2,3", "failslab=1,2,3,4,5", "failslab=1,101,0,0", "failslab=1,2,x,0", "failslab="]
    {
        assert!(matches!(parse(bad, 0), Err(OptionError::Boot(_))), "{bad}");
    }
}

#[test]
fn every_item_has_its_value() {
    let all = rule(
        "probability=0.25,interval=3,times=4,space=2K,seed=9,size=10-1M,cache=a*|b,cache-filter,task=12,\
         stack=libz*,no-stack=main,stacktrace-depth=5,ignore-gfp-wait=Y,program=sh,since=main,verbose=1",
    );
    assert_eq!((all.probability, all.interval, all.times, all.space, all.seed), (2_500, 3, 4, 2048, 9));
    assert_eq!((all.sizes, all.caches, all.marked_only), ((10, 1 << 20), Some("a*|b"), true));
    assert_eq!((all.task, all.depth, all.verbose), (Task::Thread(12), 5, 1));
    assert_eq!((all.stack, all.not_stack, all.program), (Some("libz*"), Some("main"), Some("sh")));
    assert!(all.ignore_gfp_wait && all.since_main);
    assert_eq!(rule("task=main").task, Task::Thread(7));
    let each = rule("nth=4,task=each");
    assert_eq!((each.task, each.nth), (Task::Each, 4));
    assert_eq!(rule("times=-1").times, u64::MAX);
    assert!(!rule("cache-filter=N,since=start").since_main);
    let (none, always) = (rule("verbose=0"), Attributes::ALWAYS);
    assert_eq!((none.probability, none.times, none.nth), (always.probability, always.times, always.nth));
}

#[test]
fn sizes_have_two_ends() {
    for (text, sizes) in
        [("size=64", (64, 64)), ("size=-64", (0, 64)), ("size=1k-", (1024, usize::MAX)), ("size=0-0", (0, 0))]
    {
        assert_eq!(rule(text).sizes, sizes, "{text}");
    }
}

#[test]
fn what_means_nothing_is_named() {
    assert_eq!(parse("probable=3", 0).unwrap_err(), OptionError::Name("probable"));
    for bad in [
        "probability=101",
        "probability=100.1",
        "probability=1.23456",
        "probability=.5",
        "probability",
        "nth=0",
        "nth=x",
        "interval=-1",
        "times=-2",
        "size=9-3",
        "size=",
        "cache=",
        "cache-filter=maybe",
        "since=later",
        "space=99999999999G",
    ] {
        assert_eq!(parse(bad, 0).unwrap_err(), OptionError::Value(bad), "{bad}");
    }
    assert_eq!(parse("nth=0", 0).unwrap_err().to_string(), "'nth=0' has a value that it cannot have");
}
