//! Names of functions as their languages write them.

/// The longest name that is shown, in characters: as much as a kernel keeps of one.
const LONGEST: usize = 255;

/// What the programmer called the function that the linker knows by this name. One line without tabs.
pub(super) fn demangle(name: &str) -> String {
    // `memcpy@@GLIBC_2.14`: the version is the linker's affair.
    let plain = name.split_once('@').map_or(name, |(plain, _)| plain);
    let known = rust(plain).or_else(|| cpp(plain)).unwrap_or_else(|| plain.to_owned());
    let mut short: String =
        known.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST).collect();
    if short.len() < known.len() {
        short.push('…');
    }
    short
}

fn rust(name: &str) -> Option<String> {
    // Without the hash at the end, which tells a reader nothing.
    rustc_demangle::try_demangle(name).ok().map(|known| format!("{known:#}"))
}

fn cpp(name: &str) -> Option<String> {
    if !name.starts_with("_Z") {
        return None;
    }
    let options = cpp_demangle::DemangleOptions::new().no_params().no_return_type();
    cpp_demangle::Symbol::new(name).ok()?.demangle_with_options(&options).ok()
}

#[cfg(test)]
mod tests {
    use super::demangle;

    #[test]
    fn every_language_has_its_names() {
        for (name, shown) in [
            ("main", "main"),
            ("memcpy@@GLIBC_2.14", "memcpy"),
            ("_ZN5store3Map6insertEi", "store::Map::insert"),
            ("_Znwm", "operator new"),
            ("_ZN4core3fmt5write17h0123456789abcdefE", "core::fmt::write"),
            ("_RNvNtCs1234_7mycrate3foo3bar", "mycrate::foo::bar"),
            ("_Zgarbage", "_Zgarbage"),
            ("", ""),
        ] {
            assert_eq!(demangle(name), shown, "{name}");
        }
    }

    #[test]
    fn names_stay_within_a_line() {
        assert_eq!(demangle("a\tb\nc"), "a b c");
        assert_eq!(demangle(&"x".repeat(1000)).chars().count(), 256);
    }
}
