//! The firmware's tables, as far as memory and processors go: which CPUs there are (MADT), and which CPUs and memory are
//! near each other (SRAT).
//!
//! The tables are read where they lie, byte by byte: their fields are not aligned. A table whose sum is wrong is ignored.

use super::pvh::Range;
use kmem_core::platform::MAX_NODES;

/// CPUs and pieces of memory that are kept.
const MAX_CPUS: usize = crate::smp::MAX_CPUS;
const MAX_PIECES: usize = 32;

/// What the tables tell. Without tables: one CPU, one node.
pub(crate) struct Machine {
    cpus: [Cpu; MAX_CPUS],
    cpu_count: usize,
    pieces: [(Range, usize); MAX_PIECES],
    piece_count: usize,
    domains: [u32; MAX_NODES],
    nodes: usize,
}

/// One CPU.
#[derive(Clone, Copy, Default)]
pub(crate) struct Cpu {
    /// Number of its interrupt controller.
    pub(crate) apic: u32,
    /// Its node.
    pub(crate) node: usize,
}

impl Machine {
    /// The CPUs that can run.
    pub(crate) fn cpus(&self) -> &[Cpu] {
        &self.cpus[..self.cpu_count]
    }

    /// How many nodes there are; at least 1.
    pub(crate) fn nodes(&self) -> usize {
        self.nodes.max(1)
    }

    /// Calls `visit` with the parts of `range` and their nodes. What no table names is of node 0.
    pub(crate) fn split(&self, range: Range, mut visit: impl FnMut(Range, usize)) {
        let mut at = range.start;
        while at < range.end {
            let inside =
                self.pieces[..self.piece_count].iter().find(|(piece, _)| piece.start <= at && at < piece.end);
            let (end, node) = match inside {
                Some(&(piece, node)) => (piece.end.min(range.end), node),
                None => {
                    let starts = self.pieces[..self.piece_count].iter().map(|(piece, _)| piece.start);
                    (starts.filter(|&start| start > at).min().unwrap_or(range.end).min(range.end), 0)
                }
            };
            visit(Range { start: at, end }, node);
            at = end;
        }
    }

    /// The node of a proximity domain.
    fn node_of(&mut self, domain: u32) -> usize {
        if let Some(node) = self.domains[..self.nodes].iter().position(|&known| known == domain) {
            return node;
        }
        if self.nodes == MAX_NODES {
            return 0;
        }
        self.domains[self.nodes] = domain;
        self.nodes += 1;
        self.nodes - 1
    }

    fn read_madt(&mut self, table: Table) {
        table.entries(44, |entry| {
            // A processor's local controller, enabled.
            if entry.byte(0) == 0 && entry.word(4) & 1 != 0 && self.cpu_count < MAX_CPUS {
                self.cpus[self.cpu_count] = Cpu { apic: u32::from(entry.byte(3)), node: 0 };
                self.cpu_count += 1;
            }
        });
    }

    fn read_srat(&mut self, table: Table) {
        table.entries(48, |entry| match entry.byte(0) {
            0 if entry.word(4) & 1 != 0 => {
                let high = u32::from(entry.byte(9))
                    | u32::from(entry.byte(10)) << 8
                    | u32::from(entry.byte(11)) << 16;
                let node = self.node_of(u32::from(entry.byte(2)) | high << 8);
                let apic = u32::from(entry.byte(3));
                self.cpus[..self.cpu_count]
                    .iter_mut()
                    .filter(|cpu| cpu.apic == apic)
                    .for_each(|cpu| cpu.node = node);
            }
            1 if entry.word(28) & 1 != 0 && self.piece_count < MAX_PIECES => {
                let node = self.node_of(entry.word(2));
                let start = entry.long(8) as usize;
                let piece = Range { start, end: start + entry.long(16) as usize };
                if piece.end > piece.start {
                    self.pieces[self.piece_count] = (piece, node);
                    self.piece_count += 1;
                }
            }
            _ => {}
        });
    }
}

/// A table, or an entry of one.
#[derive(Clone, Copy)]
struct Table {
    at: usize,
    len: usize,
}

impl Table {
    /// The table at a physical address, if its sum is right.
    fn at(at: usize) -> Option<Self> {
        // The first 4 GiB are mapped, and every table of 32-bit firmware lies there.
        if at == 0 || at >= 0xffff_0000 {
            return None;
        }
        let header = Self { at, len: 36 };
        let table = Self { at, len: header.word(4) as usize };
        ((36..1 << 20).contains(&table.len) && table.sums_up(table.len)).then_some(table)
    }

    fn byte(self, offset: usize) -> u8 {
        assert!(offset < self.len, "a firmware table ends early");
        // SAFETY: inside a table of the firmware, in the first 4 GiB, which are mapped.
        unsafe { ((self.at + offset) as *const u8).read_volatile() }
    }

    fn word(self, offset: usize) -> u32 {
        (0..4).rev().fold(0, |word, i| word << 8 | u32::from(self.byte(offset + i)))
    }

    fn long(self, offset: usize) -> u64 {
        u64::from(self.word(offset + 4)) << 32 | u64::from(self.word(offset))
    }

    fn sums_up(self, len: usize) -> bool {
        (0..len).fold(0, |sum: u8, i| sum.wrapping_add(self.byte(i))) == 0
    }

    fn is(self, name: &[u8]) -> bool {
        name.iter().enumerate().all(|(i, &byte)| self.byte(i) == byte)
    }

    /// The entries from `first` on: each begins with its kind and its length.
    fn entries(self, first: usize, mut visit: impl FnMut(Self)) {
        let mut offset = first;
        while offset + 2 <= self.len {
            let len = usize::from(self.byte(offset + 1));
            if len < 2 || offset + len > self.len {
                return;
            }
            visit(Self { at: self.at + offset, len });
            offset += len;
        }
    }
}

/// The root pointer: where the loader says, or where firmware leaves it.
fn find_root(told: usize) -> Option<Table> {
    let is_root = |at: usize| {
        let root = Table { at, len: 36 };
        (root.is(b"RSD PTR ") && root.sums_up(20)).then_some(root)
    };
    if told != 0 && told < 0xffff_0000 {
        return is_root(told);
    }
    (0xe_0000..0x10_0000).step_by(16).find_map(is_root)
}

/// Reads the tables; `told` is where the loader says they begin, 0 if it does not. `boot_apic` is the running CPU's controller.
pub(crate) fn read(told: usize, boot_apic: u32) -> Machine {
    let mut machine = Machine {
        cpus: [Cpu::default(); MAX_CPUS],
        cpu_count: 0,
        pieces: [(Range::default(), 0); MAX_PIECES],
        piece_count: 0,
        domains: [0; MAX_NODES],
        nodes: 0,
    };
    if let Some(root) = find_root(told) {
        // From version 2 on there is a table with addresses of 8 bytes.
        let wide = (root.byte(15) >= 2).then(|| Table::at(root.long(24) as usize)).flatten();
        let (tables, width) = match wide {
            Some(tables) => (Some(tables), 8),
            None => (Table::at(root.word(16) as usize), 4),
        };
        if let Some(tables) = tables {
            let each = |machine: &mut Machine, name: &[u8], read: fn(&mut Machine, Table)| {
                for offset in (36..tables.len + 1 - width).step_by(width) {
                    let at =
                        if width == 8 { tables.long(offset) as usize } else { tables.word(offset) as usize };
                    if let Some(table) = Table::at(at).filter(|table| table.is(name)) {
                        read(machine, table);
                    }
                }
            };
            // CPUs first: the other table gives them their nodes.
            each(&mut machine, b"APIC", Machine::read_madt);
            each(&mut machine, b"SRAT", Machine::read_srat);
        }
    }
    if !machine.cpus().iter().any(|cpu| cpu.apic == boot_apic) {
        machine.cpus[0] = Cpu { apic: boot_apic, node: 0 };
        machine.cpu_count = machine.cpu_count.max(1);
    }
    machine
}
