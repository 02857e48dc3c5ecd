//! Rust source as the rules see it: code without comments and literals, line by line, and without the tests.

/// The source with comments and the contents of string and character literals replaced by spaces. Lines
/// keep their numbers.
pub(super) fn code(text: &str) -> String {
    let bytes: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut i = 0;
    let blank = |out: &mut String, c: char| out.push(if c == '\n' { '\n' } else { ' ' });
    while i < bytes.len() {
        let rest = &bytes[i..];
        if rest.starts_with(&['/', '/']) {
            while i < bytes.len() && bytes[i] != '\n' {
                blank(&mut out, bytes[i]);
                i += 1;
            }
        } else if rest.starts_with(&['/', '*']) {
            let mut depth = 0;
            loop {
                if bytes[i..].starts_with(&['/', '*']) {
                    depth += 1;
                    i += 1;
                    out.push(' ');
                } else if bytes[i..].starts_with(&['*', '/']) {
                    depth -= 1;
                    i += 1;
                    out.push(' ');
                }
                if i < bytes.len() {
                    blank(&mut out, bytes[i]);
                    i += 1;
                }
                if depth == 0 || i >= bytes.len() {
                    break;
                }
            }
        } else if let Some(hashes) = raw_string(rest, bytes.get(i.wrapping_sub(1)).copied()) {
            let close: Vec<char> = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
            let mut end = i + 2 + hashes;
            while end < bytes.len() && !bytes[end..].starts_with(&close) {
                end += 1;
            }
            end = (end + close.len()).min(bytes.len());
            bytes[i..end].iter().for_each(|&c| blank(&mut out, c));
            i = end;
        } else if bytes[i] == '"' {
            let mut end = i + 1;
            while end < bytes.len() && bytes[end] != '"' {
                end += if bytes[end] == '\\' { 2 } else { 1 };
            }
            end = (end + 1).min(bytes.len());
            bytes[i..end].iter().for_each(|&c| blank(&mut out, c));
            i = end;
        } else if bytes[i] == '\'' && (rest.get(1) == Some(&'\\') || rest.get(2) == Some(&'\'')) {
            let mut end = i + if rest[1] == '\\' { 3 } else { 2 };
            while end < bytes.len() && bytes[end] != '\'' {
                end += 1;
            }
            end = (end + 1).min(bytes.len());
            bytes[i..end].iter().for_each(|&c| blank(&mut out, c));
            i = end;
        } else {
            out.push(bytes[i]);
            i += 1;
        }
    }
    out
}

/// `r"`, `r#"` … (also after `b` or `c`): the number of hashes.
fn raw_string(rest: &[char], before: Option<char>) -> Option<usize> {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    if rest[0] != 'r' || before.is_some_and(|c| word(c) && c != 'b' && c != 'c') {
        return None;
    }
    let hashes = rest[1..].iter().take_while(|&&c| c == '#').count();
    (rest.get(1 + hashes) == Some(&'"')).then_some(hashes)
}

/// Code up to the file's `#[cfg(test)]` module, which may use anything.
pub(super) fn without_tests(code: &str) -> &str {
    let marker = code.match_indices("#[cfg(test)]").find(|(at, mark)| {
        let item = code[at + mark.len()..].trim_start();
        item.starts_with("mod ")
            && item.find('{').is_some_and(|open| item.find(';').is_none_or(|end| open < end))
    });
    marker.map_or(code, |(at, _)| &code[..at])
}

/// The byte offsets at which `word` stands as a whole word.
pub(super) fn whole_words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word).map(|(at, _)| at).filter(move |&at| {
        let before = code[..at].chars().next_back().is_some_and(part);
        let after = code[at + word.len()..].chars().next().is_some_and(part);
        !before && !after
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines that have `unsafe` as code.
    fn lines(code: &str) -> Vec<usize> {
        whole_words(code, "unsafe").map(|at| code[..at].matches('\n').count() + 1).collect()
    }

    #[test]
    fn comments_and_literals_vanish_and_lines_stay() {
        let text =
            "let a = \"unsafe // \\\" x\"; // unsafe\n/* unsafe /* nested */ still\n*/ unsafe { 'u' }\n";
        let seen = code(text);
        assert_eq!(seen.lines().count(), text.lines().count());
        assert_eq!(lines(&seen), [3]);
        assert_eq!(lines(&code("r#\"unsafe \" \"# unsafe '\\'' unsafe b'\"' unsafe")), [1, 1, 1]);
        assert_eq!(lines(&code("fn f<'a>(x: &'a str) -> &'a str { unsafe { x } }")), [1]);
    }

    #[test]
    fn only_an_inline_test_module_ends_the_code() {
        assert_eq!(without_tests("a\n#[cfg(test)]\nmod tests {\n b }\n"), "a\n");
        let outside = "#[cfg(test)]\nmod tests;\nfn f() {}\n";
        assert_eq!(without_tests(outside), outside);
        assert_eq!(without_tests("#[cfg(test)]\nuse x;\nfn f() {}"), "#[cfg(test)]\nuse x;\nfn f() {}");
    }
}
