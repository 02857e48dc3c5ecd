//! A case: a shell script below `programs/cases` and what its head says about it.
//!
//! The head is comment lines `# key: value` at the top of the script. Called with `prepare` the script
//! makes its input in `$DATA`; called with `run` it does the work, in `$WORK`, and prints what must be the
//! same on every allocator.

use std::path::PathBuf;
use std::time::Duration;

use crate::tree;

/// What a program runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Variant {
    /// The C library's own malloc.
    System,
    /// kmem, CPUs owned by restartable sequences where the system has them.
    Kmem,
    /// kmem without restartable sequences.
    Portable,
}

impl Variant {
    pub(super) const ALL: [Self; 3] = [Self::System, Self::Kmem, Self::Portable];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Kmem => "kmem",
            Self::Portable => "portable",
        }
    }
}

/// One case.
#[derive(Debug)]
pub(super) struct Case {
    pub(super) name: String,
    pub(super) script: PathBuf,
    pub(super) what: String,
    /// Programs that must be in the path.
    pub(super) needs: Vec<String>,
    /// A shell command that must succeed for the case to be possible.
    pub(super) probe: Option<String>,
    /// Whether the case is left out, rather than failed, where something it needs is missing.
    pub(super) optional: bool,
    /// How many times each variant runs; times and sizes are medians.
    pub(super) runs: usize,
    pub(super) variants: Vec<Variant>,
    /// Whether the peak resident size is held against the system's.
    pub(super) compare_rss: bool,
    /// Time limit of one run.
    pub(super) limit: Duration,
}

/// All cases, by name.
pub(super) fn all() -> Result<Vec<Case>, String> {
    let scripts = tree::files("programs/cases");
    let cases: Result<Vec<Case>, String> = scripts
        .into_iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "sh"))
        .map(|path| {
            let text =
                std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", tree::shown(&path)))?;
            parse(path, &text)
        })
        .collect();
    cases.and_then(
        |cases| if cases.is_empty() { Err("programs/cases holds no case".into()) } else { Ok(cases) },
    )
}

fn parse(script: PathBuf, text: &str) -> Result<Case, String> {
    let name = script.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let mut case = Case {
        name,
        script,
        what: String::new(),
        needs: Vec::new(),
        probe: None,
        optional: false,
        runs: 1,
        variants: Variant::ALL.to_vec(),
        compare_rss: true,
        limit: Duration::from_secs(120),
    };
    for line in text.lines().skip(1).map_while(|line| line.strip_prefix("# ")) {
        let (key, value) =
            line.split_once(": ").ok_or_else(|| format!("{}: odd head line `{line}`", case.name))?;
        let wrong = || format!("{}: `{key}` cannot be `{value}`", case.name);
        match key {
            "what" => case.what = value.to_owned(),
            "needs" => case.needs = value.split(' ').map(str::to_owned).collect(),
            "probe" => case.probe = Some(value.to_owned()),
            "optional" => case.optional = value == "yes",
            "runs" => case.runs = value.parse().ok().filter(|&runs| runs > 0).ok_or_else(wrong)?,
            "variants" => {
                let variant = |name: &str| Variant::ALL.into_iter().find(|variant| variant.name() == name);
                case.variants = value.split(' ').map(variant).collect::<Option<_>>().ok_or_else(wrong)?;
            }
            "rss" => case.compare_rss = !value.starts_with("no"),
            "limit" => case.limit = Duration::from_secs(value.parse().map_err(|_| wrong())?),
            _ => return Err(format!("{}: no head line is called `{key}`", case.name)),
        }
    }
    if case.what.is_empty() || case.variants.first() != Some(&Variant::System) || case.variants.len() < 2 {
        return Err(format!("{}: a case says `what` it is and compares something with `system`", case.name));
    }
    Ok(case)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read_and_mistakes_told() {
        let read =
            |head: &str| parse(PathBuf::from("x/a.sh"), &format!("#!/bin/sh\n{head}\nset -e\n# why: this\n"));
        let case = read("# what: w\n# needs: git perl\n# variants: system kmem\n# rss: no (why)\n# runs: 3")
            .unwrap();
        assert_eq!((case.name.as_str(), case.runs, case.compare_rss), ("a", 3, false));
        assert_eq!(case.needs, ["git", "perl"]);
        assert_eq!(case.variants, [Variant::System, Variant::Kmem]);
        assert!(read("# needs: git").is_err(), "no `what`");
        assert!(read("# what: w\n# variants: kmem").is_err(), "nothing to compare with");
        assert!(read("# what: w\n# runs: 0").is_err());
        assert!(read("# what: w\n# colour: red").is_err());
    }

    #[test]
    fn the_cases_of_the_tree_are_sound() {
        assert!(all().unwrap().len() >= 10);
    }
}
