//! The `kmem` command: any program on slabs, and where its memory is.
//!
//! - `kmem run` ([`run`]): a program and its children with the library preloaded, and a summary of the report that
//!   they leave ([`report`], [`summary`]).
//! - `kmem top` ([`top`]): the same of programs that run, as they go on; `kmem ctl` ([`ctl`]): have one check, tell, or
//!   give back memory. Both find programs by the files that they keep ([`live`]).
//! - `kmem replay` ([`replay`]): a recorded trace on a heap.
//! - `kmem fail-sweep` ([`sweep`]): a program run once for each of its requests for memory, with that one refused.
//! - `kmem info` ([`info`]): the slab table of a run, in the text format of `/proc/slabinfo` ([`slabinfo`]).
//! - `kmem lab` ([`lab`]): a cache made, used and drawn, step by step.
//! - `kmem bench` ([`bench`]): the same work on every engine.
//! - `kmem symbolize` ([`symbolize`]): names and lines of code, for the reports of the library.
//!
//! Below them: [`table`] and [`units`] (how numbers are shown), [`sys`] (system calls), [`cli`] (arguments and
//! manuals), [`failure`] (how it fails). `unsafe` is in [`sys`], in the replayed and measured heaps and in the lab's bench only.
//!
//! Errors are one line on stderr that begins with `kmem: `.

mod bench;
mod cli;
mod ctl;
mod failure;
mod info;
mod lab;
mod live;
mod replay;
mod report;
mod run;
mod slabinfo;
mod summary;
mod sweep;
mod symbolize;
mod sys;
mod table;
mod top;
mod units;

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use cli::{Cli, Command};
use failure::{Failure, STATUS_ERROR, STATUS_KMEM};

fn main() -> ExitCode {
    let result = match Cli::try_parse() {
        Ok(cli) => match cli.command {
            // Not `run`: its summary may meet a closed stderr, and the status is then still the program's.
            Command::Run(args) => run::run(&args),
            Command::FailSweep(args) => sweep::run(&args),
            Command::Info(args) => {
                sys::default_sigpipe();
                info::run(&args)
            }
            Command::Replay(args) => {
                sys::default_sigpipe();
                replay::run(&args)
            }
            Command::Lab(args) => {
                sys::default_sigpipe();
                lab::run(&args)
            }
            Command::Bench(args) => {
                sys::default_sigpipe();
                bench::run(&args)
            }
            Command::Top(args) => {
                sys::default_sigpipe();
                top::run(&args)
            }
            Command::Ctl(args) => {
                sys::default_sigpipe();
                ctl::run(&args)
            }
            Command::Symbolize(args) => {
                sys::default_sigpipe();
                symbolize::run(&args)
            }
        },
        Err(error) => usage(&error),
    };
    match result {
        Ok(status) => ExitCode::from(status),
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::from(failure.status)
        }
    }
}

/// Help and version are answers; everything else is an error of one line.
fn usage(error: &clap::Error) -> Result<u8, Failure> {
    // `run` keeps the low numbers for the program.
    let command = std::env::args_os().nth(1).unwrap_or_default();
    let running = command == "run" || command == "fail-sweep";
    let status = if running { STATUS_KMEM } else { STATUS_ERROR };
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            sys::default_sigpipe();
            let _ = error.print();
            Ok(0)
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            Ok(status)
        }
        _ => {
            let text = error.to_string();
            let first = text.lines().next().unwrap_or_default();
            let mut message = first.strip_prefix("error: ").unwrap_or(first).to_owned();
            // What follows a colon at the end is a list, indented: take its lines along.
            if message.ends_with(':') {
                let listed = text.lines().skip(1).take_while(|line| line.starts_with("  "));
                for item in listed {
                    message = format!("{message} {}", item.trim());
                }
            }
            if let Some(values) =
                text.lines().map(str::trim).find(|line| line.starts_with("[possible values:"))
            {
                message = format!("{message} {values}");
            }
            let command = if running { format!("kmem {}", command.display()) } else { "kmem".to_owned() };
            Err(Failure::new(status, format!("{message} (see '{command} --help')")))
        }
    }
}
