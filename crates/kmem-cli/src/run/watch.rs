//! What the library is told to watch and where it tells: the options that become its variables.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, path};

use crate::cli::{LeaksShow, RunArgs};
use crate::failure::{Failure, Result};
use crate::live::directory;

/// Sets the variables in the program's environment. Those whose option was not given stay as they are.
///
/// # Errors
/// A directory that cannot be made.
pub(super) fn apply(args: &RunArgs, command: &mut Command) -> Result<()> {
    // Whoever named another program, or none, keeps it.
    if env::var_os("KMEM_SYMBOLIZER").is_none()
        && let Ok(own) = env::current_exe()
    {
        command.env("KMEM_SYMBOLIZER", own);
    }
    if args.no_live {
        command.env_remove(directory::VARIABLE);
    } else if env::var_os(directory::VARIABLE).is_none()
        && let Some(place) = directory::make()
    {
        // Whoever named another directory, or none, keeps it.
        command.env(directory::VARIABLE, place);
    }
    if let Some(status) = args.leaks {
        let show = match args.leaks_show {
            LeaksShow::Lost => "1",
            LeaksShow::All => "all",
            LeaksShow::InUse => "in-use",
        };
        command.env("KMEM_LEAKS", show);
        if let Some(status) = status {
            command.env("KMEM_LEAKS_EXIT", status.to_string());
        }
    }
    if let Some(directory) = &args.traces {
        fs::create_dir_all(directory)
            .map_err(|error| Failure::run(format!("{}: {error}", directory.display())))?;
        command.env("KMEM_TRACES", absolute(directory)?);
    }
    if let Some(seconds) = args.validate {
        command.env("KMEM_VALIDATE", seconds.to_string());
    }
    if let Some(place) = &args.log {
        command.env("KMEM_LOG", if is_file(place.as_os_str()) { absolute(place)? } else { place.clone() });
    }
    Ok(())
}

/// True for a place that is a file's name.
fn is_file(place: &OsStr) -> bool {
    let text = place.to_string_lossy();
    text != "stderr" && text != "syslog" && !text.starts_with("syslog:")
}

/// The program may go elsewhere before it has something to tell.
fn absolute(path: &Path) -> Result<PathBuf> {
    path::absolute(path).map_err(|error| Failure::run(format!("{}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::is_file;

    #[test]
    fn places_that_are_no_files() {
        for (place, file) in [("stderr", false), ("syslog", false), ("syslog:/x", false), ("log", true)] {
            assert_eq!(is_file(place.as_ref()), file, "{place}");
        }
    }
}
