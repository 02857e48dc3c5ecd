use super::*;
use crate::run::tests::Scratch;
use std::thread;

/// This process, as if it had a table in the directory.
fn here(scratch: &Scratch) -> Found {
    let pid = std::process::id();
    Found { pid, directory: scratch.path(""), process: Process::find(pid).unwrap() }
}

fn place(found: &Found) -> PathBuf {
    found.directory.join(format!("{}.ask", found.pid))
}

/// Takes the ask as the library does, and answers with what it was asked.
fn answer(found: &Found, first: &str) -> String {
    let start = Instant::now();
    let line = loop {
        match fs::read_to_string(place(found)) {
            Ok(line) => break line,
            Err(_) => thread::sleep(Duration::from_millis(2)),
        }
        assert!(start.elapsed() < Duration::from_secs(10), "never asked");
    };
    fs::remove_file(place(found)).unwrap();
    let (number, command) = line.trim_end().split_once(' ').unwrap();
    let part = found.directory.join("part");
    fs::write(&part, format!("{first}\n{command}\n")).unwrap();
    fs::rename(part, found.directory.join(format!("{}.answer.{number}", found.pid))).unwrap();
    line
}

fn left(scratch: &Scratch) -> usize {
    fs::read_dir(scratch.path("")).unwrap().count()
}

#[test]
fn an_ask_is_answered_and_leaves_nothing() {
    let scratch = Scratch::new("ask");
    let found = here(&scratch);
    thread::scope(|scope| {
        let asked = scope.spawn(|| ask(&found, "leaks all", Duration::from_secs(10), false));
        let line = answer(&found, "ok");
        assert!(line.ends_with(" leaks all\n") && line.split(' ').next().unwrap().parse::<i64>().is_ok());
        let expected = Answer { error: None, text: "leaks all\n".into() };
        assert_eq!(asked.join().unwrap().unwrap(), expected);
    });
    assert_eq!(left(&scratch), 0);
}

#[test]
fn askers_wait_for_one_another() {
    let scratch = Scratch::new("askers");
    let found = here(&scratch);
    let names: Vec<String> = (0..8).map(|i| format!("letters {i}")).collect();
    thread::scope(|scope| {
        let asked: Vec<_> = names
            .iter()
            .map(|name| scope.spawn(|| ask(&found, name, Duration::from_secs(20), false).unwrap()))
            .collect();
        for _ in &names {
            answer(&found, "ok");
        }
        for (name, asked) in names.iter().zip(asked) {
            assert_eq!(asked.join().unwrap().text, format!("{name}\n"));
        }
    });
    assert_eq!(left(&scratch), 0);
}

#[test]
fn an_ask_without_an_answer_is_taken_back() {
    let scratch = Scratch::new("silent");
    let found = here(&scratch);
    let late = ask(&found, "shrink", Duration::from_millis(60), false).unwrap_err();
    assert_eq!(late.status, 1);
    let expected = format!(
        "no answer from process {} within 0.06 s: \
         the program did not allocate or free meanwhile (or only what its CPUs have at hand)",
        found.pid
    );
    assert_eq!(late.message, expected);
    assert_eq!(left(&scratch), 0);
}

#[test]
fn what_nobody_would_read_to_its_end_is_not_asked() {
    let scratch = Scratch::new("long");
    let refused = ask(&here(&scratch), &"x".repeat(LONGEST), Duration::from_secs(9), false).unwrap_err();
    assert_eq!((refused.message.as_str(), left(&scratch)), ("no command is longer than 2048 bytes", 0));
}

#[test]
fn the_ask_of_another_is_left_alone() {
    let scratch = Scratch::new("another");
    let found = here(&scratch);
    fs::write(place(&found), "5 validate\n").unwrap();
    let late = ask(&found, "shrink", Duration::from_millis(60), false).unwrap_err();
    assert!(late.message.ends_with("s: another command still waits for one"), "{}", late.message);
    assert_eq!((fs::read_to_string(place(&found)).unwrap().as_str(), left(&scratch)), ("5 validate\n", 1));
    // Taken by the process, and another's is there by the time of taking back.
    Ask::new(found.pid, &found.directory, "shrink").take_back(true);
    assert_eq!((fs::read_to_string(place(&found)).unwrap().as_str(), left(&scratch)), ("5 validate\n", 1));
}

#[test]
fn answers_are_understood_or_told() {
    let answer =
        |error: Option<&str>, text: &str| Answer { error: error.map(str::to_owned), text: text.into() };
    for (text, expected) in [
        ("ok\n", answer(None, "")),
        ("ok", answer(None, "")),
        ("ok\na\nb\n", answer(None, "a\nb\n")),
        ("error: no such cache\n", answer(Some("no such cache"), "")),
        ("error:\nmore\n", answer(Some(""), "more\n")),
        ("", answer(Some("it answered ''"), "")),
        ("okay\x1b\n", answer(Some("it answered 'okay?'"), "")),
    ] {
        assert_eq!(parse(text), expected, "{text:?}");
    }
}

#[test]
fn numbers_are_positive_and_differ() {
    let first = number();
    thread::sleep(Duration::from_micros(5));
    assert!(first < 1 << 63 && number() != first);
}
