// SPDX-License-Identifier: MIT OR Apache-2.0
//! What must hold for an early binary that ships, read from the file itself.
//!
//! The symbol table is the proof: with every function in one object and dead code collected, a
//! panic or an allocation that cannot be reached leaves no symbol behind. The file that ships has no
//! symbol table any more, so it must be, byte for byte, the program that was proven.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use object::elf::{ET_EXEC, PT_DYNAMIC, PT_INTERP, PT_LOAD, ProgramType};
use object::read::elf::{ElfFile64, FileHeader, ProgramHeader};
use object::{
    Architecture, Endianness, Object, ObjectSection, ObjectSymbol, SectionKind, SymbolKind,
    SymbolSection,
};

/// Who may bring the stack unwinder into the file.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Unwinder {
    /// Static glibc links libgcc's unwinder for `pthread_cancel`, whatever the program does.
    FromLibc,
    /// Only panics would.
    Forbidden,
}

/// One reason why a file must not ship.
#[derive(Debug, PartialEq, Eq)]
pub enum Finding {
    NotElf(String),
    NotStatic { elf_type: u16 },
    Interpreter,
    Dynamic,
    TooLarge { bytes: u64, ceiling: u64 },
    NoSymbols,
    OtherProgram,
    DeadText(&'static str),
    Forbidden { symbol: String, callers: Vec<String> },
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::NotElf(reason) => write!(f, "not a 64-bit ELF file: {reason}"),
            Self::NotStatic { elf_type } => write!(
                f,
                "ELF type {elf_type}, expected {} (a static executable that is not PIE)",
                ET_EXEC.0
            ),
            Self::Interpreter => f.write_str("has an interpreter (PT_INTERP): not static"),
            Self::Dynamic => f.write_str("has a dynamic section (PT_DYNAMIC): not static"),
            Self::TooLarge { bytes, ceiling } => {
                write!(f, "{bytes} bytes, the ceiling is {ceiling}")
            }
            Self::NoSymbols => f.write_str("has no symbol table, so nothing can be proven"),
            Self::OtherProgram => f.write_str("is not the program that was linked and proven"),
            Self::DeadText(text) => write!(f, "contains the text \"{text}\", which nothing prints"),
            Self::Forbidden { symbol, callers } if callers.is_empty() => {
                write!(f, "contains {symbol}")
            }
            Self::Forbidden { symbol, callers } => {
                write!(f, "contains {symbol}, called by {}", callers.join(", "))
            }
        }
    }
}

/// Audits a file as it was linked, symbol table included; an empty list is a pass.
pub fn prove(linked: &Path, unwinder: Unwinder) -> Result<Vec<Finding>> {
    Ok(prove_bytes(&read(linked)?, unwinder))
}

/// Audits the file that ships against the one that was proven; an empty list is a pass.
pub fn compare(shipped: &Path, linked: &Path, ceiling: u64) -> Result<Vec<Finding>> {
    Ok(compare_bytes(&read(shipped)?, &read(linked)?, ceiling))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Whether the file is an ELF executable without an interpreter.
pub fn is_static(path: &Path) -> bool {
    let Ok(bytes) = fs::read(path) else {
        return false;
    };
    ElfFile64::<Endianness>::parse(&*bytes).is_ok_and(|file| !has_segment(&file, PT_INTERP))
}

type Elf<'data> = ElfFile64<'data, Endianness>;

fn prove_bytes(bytes: &[u8], unwinder: Unwinder) -> Vec<Finding> {
    match Elf::parse(bytes) {
        Ok(file) => shape(&file)
            .into_iter()
            .chain(symbols(&file, unwinder))
            .chain(dead_texts(bytes, unwinder))
            .collect(),
        Err(error) => vec![Finding::NotElf(error.to_string())],
    }
}

fn compare_bytes(shipped: &[u8], linked: &[u8], ceiling: u64) -> Vec<Finding> {
    let (file, proven) = match (Elf::parse(shipped), Elf::parse(linked)) {
        (Ok(file), Ok(proven)) => (file, proven),
        (Err(error), _) | (_, Err(error)) => return vec![Finding::NotElf(error.to_string())],
    };
    let mut findings = shape(&file);
    let size = shipped.len() as u64;
    if size > ceiling {
        findings.push(Finding::TooLarge { bytes: size, ceiling });
    }
    if memory(&file) != memory(&proven) {
        findings.push(Finding::OtherProgram);
    }
    findings
}

/// What the kernel makes of a file: where the program starts, and what is mapped where.
#[derive(PartialEq, Eq)]
struct Memory {
    entry: u64,
    segments: Vec<Segment>,
}

#[derive(PartialEq, Eq)]
struct Segment {
    address: u64,
    size: u64,
    permissions: u32,
    /// Without the ELF header, which also tells where the symbol table is.
    bytes: Vec<u8>,
}

fn memory(file: &Elf) -> Memory {
    let endian = file.endian();
    let headers = file.elf_program_headers().iter();
    let segments = headers.filter(|header| header.p_type(endian) == PT_LOAD).map(|header| {
        let skipped = if header.p_offset(endian) == 0 { size_of_val(file.elf_header()) } else { 0 };
        let bytes = header.data(endian, file.data()).unwrap_or_default();
        Segment {
            address: header.p_vaddr(endian),
            size: header.p_memsz(endian),
            permissions: header.p_flags(endian).0,
            bytes: bytes.get(skipped..).unwrap_or_default().to_vec(),
        }
    });
    Memory { entry: file.elf_header().e_entry(endian), segments: segments.collect() }
}

fn shape(file: &Elf) -> Vec<Finding> {
    let mut findings = Vec::new();
    let elf_type = file.elf_header().e_type(file.endian());
    if elf_type != ET_EXEC {
        findings.push(Finding::NotStatic { elf_type: elf_type.0 });
    }
    if has_segment(file, PT_INTERP) {
        findings.push(Finding::Interpreter);
    }
    if has_segment(file, PT_DYNAMIC) {
        findings.push(Finding::Dynamic);
    }
    findings
}

fn has_segment(file: &Elf, kind: ProgramType) -> bool {
    file.elf_program_headers().iter().any(|header| header.p_type(file.endian()) == kind)
}

fn symbols(file: &Elf, unwinder: Unwinder) -> Vec<Finding> {
    let symbols = Symbols::read(file);
    if symbols.functions.is_empty() {
        return vec![Finding::NoSymbols];
    }
    let forbidden: BTreeSet<&str> = symbols
        .names
        .iter()
        .map(String::as_str)
        .filter(|name| is_forbidden(name, unwinder))
        .collect();
    let mut callers = symbols.callers(file, &forbidden);
    let mut findings: Vec<Finding> = forbidden
        .into_iter()
        .map(|symbol| Finding::Forbidden {
            symbol: symbol.to_owned(),
            callers: callers.remove(symbol).unwrap_or_default(),
        })
        .collect();
    // What our own code calls is the root of all the rest: it is told first.
    findings.sort_by_key(
        |finding| matches!(finding, Finding::Forbidden { callers, .. } if callers.is_empty()),
    );
    findings
}

/// What the linker kept of panics' texts where it can leave them out, which is with musl.
fn dead_texts(bytes: &[u8], unwinder: Unwinder) -> Option<Finding> {
    const PANIC: &str = "panicked at ";
    let is_there = bytes.windows(PANIC.len()).any(|text| text == PANIC.as_bytes());
    (unwinder == Unwinder::Forbidden && is_there).then_some(Finding::DeadText(PANIC))
}

/// Whether a demangled symbol is part of panicking, unwinding or allocation in Rust.
fn is_forbidden(name: &str, unwinder: Unwinder) -> bool {
    const PARTS: [&str; 12] = [
        "core::panicking::",
        "core::panic::",
        "std::panicking::",
        "std::panic::",
        "std::alloc::",
        "rust_begin_unwind",
        "rust_eh_personality",
        "rust_panic",
        "__rust_start_panic",
        "__rust_alloc",
        "__rust_dealloc",
        "__rust_realloc",
    ];
    let from_alloc = name.starts_with("alloc::") || name.contains("<alloc::");
    let core_failure =
        name.starts_with("core::") && (name.ends_with("_failed") || name.ends_with("_fail"));
    let hook = name.starts_with("__rdl_") || name.starts_with("__rg_");
    let unwinding = unwinder == Unwinder::Forbidden && name.starts_with("_Unwind_");
    from_alloc || core_failure || hook || unwinding || PARTS.iter().any(|part| name.contains(part))
}

/// Whether a demangled function belongs to the standard library or to the compiler.
fn is_standard_library(name: &str) -> bool {
    let path = name.trim_start_matches(['<', '&', '_']);
    ["alloc::", "core::", "rust", "std::", "Unwind_"].iter().any(|prefix| path.starts_with(prefix))
}

/// The symbol table with demangled names.
struct Symbols {
    names: BTreeSet<String>,
    functions: BTreeMap<u64, String>,
}

impl Symbols {
    fn read(file: &Elf) -> Self {
        let mut symbols = Self { names: BTreeSet::new(), functions: BTreeMap::new() };
        // A name that the linker was only given a number for is no code: `rust_eh_personality=0` of build.rs.
        let is_in_file = |symbol: &object::read::elf::ElfSymbol64<'_, '_, Endianness>| {
            symbol.is_definition() && symbol.section() != SymbolSection::Absolute
        };
        for symbol in file.symbols().filter(is_in_file) {
            let Ok(mangled) = symbol.name() else { continue };
            // The alternate form leaves out the hash, which differs between compilers.
            let name = format!("{:#}", rustc_demangle::demangle(mangled));
            if symbol.kind() == SymbolKind::Text {
                symbols.functions.insert(symbol.address(), name.clone());
            }
            symbols.names.insert(name);
        }
        symbols
    }

    /// For each forbidden function, the functions outside the standard library that call it.
    ///
    fn callers(&self, file: &Elf, forbidden: &BTreeSet<&str>) -> BTreeMap<String, Vec<String>> {
        let mut callers: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for section in file.sections().filter(|section| section.kind() == SectionKind::Text) {
            let code = section.data().unwrap_or_default();
            for (place, target) in calls(file.architecture(), section.address(), code) {
                let Some(callee) = self.functions.get(&target) else {
                    continue;
                };
                let Some((_, from)) = self.functions.range(..=place).next_back() else {
                    continue;
                };
                if !forbidden.contains(&**callee)
                    || forbidden.contains(&**from)
                    || is_standard_library(from)
                {
                    continue;
                }
                let known = callers.entry(callee.clone()).or_default();
                if !known.contains(from) {
                    known.push(from.clone());
                }
            }
        }
        callers
    }
}

/// Every place that may be a direct call or jump, with where it leads.
fn calls(architecture: Architecture, base: u64, code: &[u8]) -> Vec<(u64, u64)> {
    match architecture {
        Architecture::X86_64 => calls_of_x86_64(base, code).collect(),
        Architecture::Aarch64 => calls_of_aarch64(base, code).collect(),
        // A report then names what is forbidden, and not who calls it.
        _ => Vec::new(),
    }
}

/// `call` and `jmp`: an opcode and a 32-bit distance. Reading every byte as a possible opcode finds them all; that
/// a wrong one hits the very start of such a function by chance is too rare to matter in a message.
fn calls_of_x86_64(base: u64, code: &[u8]) -> impl Iterator<Item = (u64, u64)> {
    const CALL: u8 = 0xe8;
    const JUMP: u8 = 0xe9;
    (base..).zip(code.windows(5)).filter_map(|(place, bytes)| {
        let &[CALL | JUMP, a, b, c, d] = bytes else {
            return None;
        };
        let distance = i32::from_le_bytes([a, b, c, d]);
        let next = place.wrapping_add(5);
        Some((place, next.wrapping_add_signed(distance.into())))
    })
}

/// `bl` and `b`: six bits of opcode, and a distance of 26 bits in instructions.
fn calls_of_aarch64(base: u64, code: &[u8]) -> impl Iterator<Item = (u64, u64)> {
    const SIZE: usize = 4;
    (base..).step_by(SIZE).zip(code.chunks_exact(SIZE)).filter_map(|(place, bytes)| {
        let word = u32::from_le_bytes(bytes.try_into().ok()?);
        // The highest bit tells the one from the other.
        let is_branch = word & 0x7c00_0000 == 0x1400_0000;
        let distance = i64::from((word << 6).cast_signed() >> 4);
        is_branch.then(|| (place, place.wrapping_add_signed(distance)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panics_and_allocations_are_forbidden() {
        for name in [
            "core::panicking::panic_bounds_check",
            "core::slice::index::slice_index_fail",
            "core::result::unwrap_failed",
            "core::option::expect_failed",
            "std::panicking::panic_with_hook",
            "<std::panicking::panic_handler::FormatStringPayload as core::fmt::Display>::fmt",
            "__rustc::rust_begin_unwind",
            "__rustc::__rust_alloc_error_handler",
            "__rustc::__rust_realloc",
            "rust_eh_personality",
            "__rdl_alloc",
            "alloc::raw_vec::capacity_overflow",
            "<alloc::string::String as core::fmt::Write>::write_str",
            "_Unwind_Resume",
        ] {
            assert!(is_forbidden(name, Unwinder::Forbidden), "{name}");
        }
    }

    #[test]
    fn the_c_library_and_harmless_core_code_are_allowed() {
        for name in [
            "malloc",
            "_dl_allocate_tls",
            "__assert_fail",
            "core::fmt::write",
            "<core::fmt::Formatter>::pad_integral",
            "std::sys::args::unix::imp::ARGV_INIT_ARRAY",
            "vfio_override_early::work",
        ] {
            assert!(!is_forbidden(name, Unwinder::Forbidden), "{name}");
        }
        assert!(!is_forbidden("_Unwind_Resume", Unwinder::FromLibc));
    }

    #[test]
    fn this_test_program_fails_in_every_way() -> Result<()> {
        let this = std::env::current_exe()?;
        let mut findings = prove(&this, Unwinder::Forbidden)?;
        findings.extend(compare(&this, &this, 64 * 1024)?);
        let has = |test: fn(&Finding) -> bool| findings.iter().any(test);
        assert!(has(|finding| matches!(finding, Finding::NotStatic { .. })));
        assert!(has(|finding| matches!(finding, Finding::Interpreter)));
        assert!(has(|finding| matches!(finding, Finding::Dynamic)));
        assert!(has(|finding| matches!(finding, Finding::TooLarge { .. })));
        assert!(has(|finding| matches!(finding, Finding::DeadText(_))));
        assert!(has(|finding| matches!(
            finding,
            Finding::Forbidden { symbol, .. } if symbol == "core::panicking::panic_fmt"
        )));
        Ok(())
    }

    #[test]
    fn calls_and_jumps_lead_forward_and_back() {
        let code = [0x90, 0xe8, 1, 0, 0, 0, 0xe9, 0xf5, 0xff, 0xff, 0xff, 0xc3];
        assert_eq!(
            calls(Architecture::X86_64, 0x1000, &code),
            [(0x1001, 0x1007), (0x1006, 0x1000)]
        );
        // nop; bl +8; b -8; ret
        let words = [0xd503_201f_u32, 0x9400_0002, 0x17ff_fffe, 0xd65f_03c0];
        let code: Vec<u8> = words.into_iter().flat_map(u32::to_le_bytes).collect();
        assert_eq!(
            calls(Architecture::Aarch64, 0x1000, &code),
            [(0x1004, 0x100c), (0x1008, 0x1000)]
        );
    }

    #[test]
    fn what_our_code_calls_is_told_first() -> Result<()> {
        let findings = prove(&std::env::current_exe()?, Unwinder::Forbidden)?;
        let known: Vec<bool> = findings
            .iter()
            .filter_map(|finding| match finding {
                Finding::Forbidden { callers, .. } => Some(callers.is_empty()),
                _ => None,
            })
            .collect();
        assert!(known.is_sorted());
        Ok(())
    }

    #[test]
    fn anything_but_elf_is_told() {
        let script = b"#!/bin/sh\n";
        let proof = prove_bytes(script, Unwinder::Forbidden);
        assert!(matches!(proof.as_slice(), [Finding::NotElf(_)]));
        let comparison = compare_bytes(script, script, 64 * 1024);
        assert!(matches!(comparison.as_slice(), [Finding::NotElf(_)]));
    }

    #[test]
    fn one_changed_byte_makes_another_program() -> Result<()> {
        let linked = read(&std::env::current_exe()?)?;
        let is_other = |shipped: &[u8]| {
            compare_bytes(shipped, &linked, u64::MAX).contains(&Finding::OtherProgram)
        };
        assert!(!is_other(&linked));

        let file = Elf::parse(&*linked)?;
        let code = file.sections().find(|section| section.kind() == SectionKind::Text);
        let (offset, _) = code.and_then(|section| section.file_range()).context("no code")?;
        let mut changed = linked.clone();
        changed[usize::try_from(offset)?] ^= 1;
        assert!(is_other(&changed));
        Ok(())
    }

    #[test]
    fn findings_read_as_sentences() {
        let finding = Finding::Forbidden {
            symbol: "core::panicking::panic_fmt".to_owned(),
            callers: vec!["vfio_override_early::work".to_owned()],
        };
        assert_eq!(
            finding.to_string(),
            "contains core::panicking::panic_fmt, called by vfio_override_early::work"
        );
        let finding = Finding::TooLarge { bytes: 70_000, ceiling: 65_536 };
        assert_eq!(finding.to_string(), "70000 bytes, the ceiling is 65536");
    }
}
