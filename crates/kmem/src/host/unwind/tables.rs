//! The rule of a place, from the tables of the file that it lies in (`.eh_frame_hdr`, `.eh_frame`).
//!
//! The crate `gimli` reads and interprets them, in buffers on the stack. What it answers is believed as far as it is of the shapes that
//! a [`Rule`] has.

use gimli::{
    BaseAddresses, CfaRule, EhFrame, EhFrameHdr, EndianSlice, NativeEndian, Operation, Pointer, Register,
    RegisterRule, UnwindContext, UnwindContextStorage, UnwindExpression, UnwindSection, UnwindTableRow,
    X86_64,
};

use super::rule::{Kind, Rule};
use crate::host::trace::Found;

type Bytes = EndianSlice<'static, NativeEndian>;
type Frames = EhFrame<Bytes>;

/// Where `gimli` works: registers with rules, and remembered rows. What needs more is no compiler's.
struct OnStack;

impl UnwindContextStorage<usize> for OnStack {
    type Rules = [(Register, RegisterRule<usize>); 20];
    type Stack = [UnwindTableRow<usize, Self>; 4];
}

/// Bytes of the tables that tell one file from another.
const MARK_BYTES: usize = 64;

/// The rule of the instruction at an address of this file, and the file's mark.
pub(super) fn rule(file: &Found, address: usize) -> (Rule, usize) {
    let Some(header) = table(file) else { return (Rule::plain(Kind::Other), 0) };
    let mark = header.iter().take(MARK_BYTES).fold(header.len(), |mark, &byte| {
        (mark ^ usize::from(byte)).wrapping_mul(0x100_0000_01b3).rotate_left(7)
    });
    let rule = match look_up(header, address as u64) {
        Ok(rule) => rule,
        // A file with tables that say nothing of this place: the outermost frame, for the compiler's unwinder too.
        Err(gimli::Error::NoUnwindInfoForAddress) => Rule::plain(Kind::End),
        Err(_) => Rule::plain(Kind::Other),
    };
    (rule, mark)
}

/// The bytes from the file's `.eh_frame_hdr` to the end of the segment it is mapped with.
fn table(file: &Found) -> Option<&'static [u8]> {
    let start = file.eh_frame.addr();
    let head = file.start as *const libc::Elf64_Ehdr;
    if start == 0 || !head.is_aligned() || file.end - file.start < size_of::<libc::Elf64_Ehdr>() {
        return None;
    }
    // SAFETY: the first bytes of what the loader mapped of a file. Such a file begins with this header; it is checked that it does.
    let head = unsafe { &*head };
    if head.e_ident[..4] != *b"\x7fELF" || usize::from(head.e_phentsize) != size_of::<libc::Elf64_Phdr>() {
        return None;
    }
    // SAFETY: program headers lie behind the file's header, in the same page as a rule and in the first segment always, which the
    // loader itself read them from.
    let segments = unsafe {
        let first = (file.start + head.e_phoff as usize) as *const libc::Elf64_Phdr;
        if !first.is_aligned() || first.addr() >= file.end {
            return None;
        }
        core::slice::from_raw_parts(first, usize::from(head.e_phnum))
    };
    let loaded = || segments.iter().filter(|segment| segment.p_type == libc::PT_LOAD);
    // Addresses in the file count from where its first segment says that it is.
    let lowest = loaded().map(|segment| segment.p_vaddr as usize & !0xfff).min()?;
    let base = file.start.wrapping_sub(lowest);
    let end = loaded().find_map(|segment| {
        let from = base.wrapping_add(segment.p_vaddr as usize);
        let to = from.wrapping_add(segment.p_filesz as usize);
        (from..to).contains(&start).then_some(to)
    })?;
    // SAFETY: bytes of one segment, which stay as long as the file is loaded; code of it is being run. They are the tables, which
    // nobody writes.
    Some(unsafe { core::slice::from_raw_parts(start as *const u8, end - start) })
}

fn look_up(header: &'static [u8], address: u64) -> Result<Rule, gimli::Error> {
    let start = header.as_ptr().addr() as u64;
    let bases = BaseAddresses::default().set_eh_frame_hdr(start);
    let parsed = EhFrameHdr::new(header, NativeEndian).parse(&bases, 8)?;
    let Pointer::Direct(frames_at) = parsed.eh_frame_ptr() else {
        return Err(gimli::Error::UnsupportedPointerEncoding(gimli::DW_EH_PE_indirect));
    };
    // Both tables are in one segment, in whatever order.
    let bytes = usize::try_from(frames_at.wrapping_sub(start)).ok().and_then(|at| header.get(at..));
    let bytes = bytes.ok_or(gimli::Error::OffsetOutOfBounds(frames_at))?;
    let frames = EhFrame::new(bytes, NativeEndian);
    let bases = bases.set_eh_frame(frames_at);
    let table = parsed.table().ok_or(gimli::Error::NoUnwindInfoForAddress)?;
    let entry = table.fde_for_address(&frames, &bases, address, Frames::cie_from_offset)?;
    if entry.is_signal_trampoline() {
        return Ok(Rule::plain(Kind::Signal));
    }
    let mut context = UnwindContext::<usize, OnStack>::new_in();
    let row = entry.unwind_info_for_address(&frames, &bases, &mut context, address)?;
    Ok(translate(row, &frames).unwrap_or(Rule::plain(Kind::Other)))
}

/// A row of the tables as a rule; `None`: it is of another shape.
fn translate(row: &UnwindTableRow<usize, OnStack>, frames: &Frames) -> Option<Rule> {
    match row.register(X86_64::RA) {
        Some(RegisterRule::Undefined) => return Some(Rule::plain(Kind::End)),
        Some(RegisterRule::Offset(-8)) => {}
        _ => return None,
    }
    let saved_rbp = match row.register(X86_64::RBP) {
        None | Some(RegisterRule::Undefined | RegisterRule::SameValue) => 0,
        Some(RegisterRule::Offset(offset)) if offset < 0 && offset % 8 == 0 => {
            usize::try_from(-offset / 8).ok().filter(|&words| words < Rule::WHERE_IT_POINTS)?
        }
        Some(RegisterRule::Expression(expression)) if of_rbp(&expression, frames)? == (0, false) => {
            Rule::WHERE_IT_POINTS
        }
        _ => return None,
    };
    match row.cfa() {
        CfaRule::RegisterAndOffset { register: X86_64::RSP, offset } => {
            Rule::new(Kind::Rsp, *offset, saved_rbp)
        }
        CfaRule::RegisterAndOffset { register: X86_64::RBP, offset } => {
            Rule::new(Kind::Rbp, *offset, saved_rbp)
        }
        CfaRule::RegisterAndOffset { .. } => None,
        CfaRule::Expression(expression) => {
            let (offset, true) = of_rbp(expression, frames)? else { return None };
            Rule::new(Kind::AtRbp, offset, saved_rbp)
        }
    }
}

/// `n` of an expression `rbp + n`, and whether it goes on with "what lies there"; `None`: it is another one.
fn of_rbp(expression: &UnwindExpression<usize>, frames: &Frames) -> Option<(i64, bool)> {
    let encoding = gimli::Encoding { address_size: 8, format: gimli::Format::Dwarf32, version: 4 };
    let mut operations = expression.get(frames).ok()?.operations(encoding);
    let Some(Operation::RegisterOffset { register: X86_64::RBP, offset, .. }) = operations.next().ok()?
    else {
        return None;
    };
    match operations.next().ok()? {
        None => Some((offset, false)),
        Some(Operation::Deref { size: 8, space: false, .. }) if operations.next().ok()?.is_none() => {
            Some((offset, true))
        }
        Some(_) => None,
    }
}
