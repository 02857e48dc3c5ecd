//! What is known of one program or library: its symbols, and its debug information.

use std::fs;
use std::path::{Path, PathBuf};

use addr2line::Loader;
use object::{Object, ObjectSymbol, SymbolKind};

use super::Answer;
use super::debug_file::{self, File};
use super::demangle::demangle;

/// A function of the symbol table.
#[derive(Debug)]
struct Symbol {
    start: u64,
    size: u64,
    name: String,
}

/// One program or library.
pub(super) struct Module {
    /// By address.
    symbols: Vec<Symbol>,
    debug: Option<Loader>,
}

impl Module {
    /// Reads a file; `None`: it is no ELF file for 64 bits, or cannot be read.
    pub(super) fn open(path: &Path) -> Option<Self> {
        let bytes = fs::read(path).ok()?;
        let file = File::parse(&*bytes).ok()?;
        let mut symbols = symbols(&file);
        let with_lines =
            if debug_file::has_lines(&file) { Some(path.to_owned()) } else { debug_file::of(path, &file) };
        let debug = with_lines.and_then(|lines| load(&lines, path, &mut symbols));
        symbols.sort_by(|a, b| (a.start, b.size, &a.name).cmp(&(b.start, a.size, &b.name)));
        Some(Module { symbols, debug })
    }

    /// What is before this return address.
    pub(super) fn answer(&self, offset: u64) -> Answer {
        let probe = offset.saturating_sub(1);
        let mut answer = Answer::default();
        if let Some(symbol) = self.symbol(probe) {
            let name = demangle(&symbol.name);
            answer.symbol = format!("{name}+{:#x}/{:#x}", offset - symbol.start, symbol.size);
        }
        let frames = self.debug.as_ref().and_then(|debug| debug.find_frames(probe).ok());
        let Some(mut frames) = frames else { return answer };
        // From the inside out. The last one is the function that has the symbol.
        let mut found = Vec::new();
        while let Ok(Some(frame)) = frames.next() {
            let name = frame.function.as_ref().and_then(|function| function.raw_name().ok());
            let name = name.map_or_else(|| "?".to_owned(), |name| demangle(&name));
            let location = frame.location.as_ref().and_then(|location| {
                let line = location.line.map_or_else(|| "?".to_owned(), |line| line.to_string());
                Some(format!("{}:{line}", location.file?.replace(['\t', '\n'], " ")))
            });
            found.push((name, location));
        }
        if let Some((_, location)) = found.pop() {
            answer.location = location;
            let inlined = found.into_iter().rev();
            answer.inlined =
                inlined.map(|(name, at)| format!("{name} {}", at.unwrap_or("?".into()))).collect();
        }
        if answer.location.is_none() && !answer.inlined.is_empty() {
            answer.location = Some("?".to_owned());
        }
        answer
    }

    /// The function that covers a place; of several the one that begins last, and is the smallest.
    fn symbol(&self, probe: u64) -> Option<&Symbol> {
        let behind = self.symbols.partition_point(|symbol| symbol.start <= probe);
        // A function may lie within another's bounds, but not far behind it.
        self.symbols[..behind].iter().rev().take(16).find(|symbol| probe - symbol.start < symbol.size.max(1))
    }
}

/// The debug information in `lines`, whose symbols are added where the file at `path` was stripped of its own.
fn load(lines: &Path, path: &Path, all: &mut Vec<Symbol>) -> Option<Loader> {
    let mut shared: Option<PathBuf> = None;
    if let Ok(bytes) = fs::read(lines)
        && let Ok(file) = File::parse(&*bytes)
    {
        shared = debug_file::shared(lines, &file);
        if lines != path {
            all.extend(symbols(&file));
        }
    }
    Loader::new_with_sup(lines, shared.as_deref()).ok()
}

/// The functions of the symbol tables.
fn symbols(file: &File<'_>) -> Vec<Symbol> {
    let defined = file.symbols().chain(file.dynamic_symbols()).filter(|symbol| {
        symbol.is_definition() && matches!(symbol.kind(), SymbolKind::Text) && symbol.address() != 0
    });
    defined
        .filter_map(|symbol| {
            let name = symbol.name().ok().filter(|name| !name.is_empty())?;
            Some(Symbol { start: symbol.address(), size: symbol.size(), name: name.to_owned() })
        })
        .collect()
}
