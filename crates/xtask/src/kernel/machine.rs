//! One machine: its options, the kernel built for it, QEMU's command line, and what came out of its serial port.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::step::{Count, Step};
use crate::tree;

/// QEMU's status after the kernel's verdict "passed".
const PASSED: i32 = 33;
/// The program.
const QEMU: &str = "qemu-system-x86_64";

/// The engines that the kernel can be built with.
pub(super) const ENGINES: [&str; 3] = ["slub", "slab", "slob"];

/// A machine and the kernel to boot on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Machine {
    pub(super) smp: u32,
    pub(super) nodes: u32,
    pub(super) mem: u32,
    /// How much of the memory lies below 4 GiB; `None`: as much as the machine's kind has there, 3 GiB.
    pub(super) low: Option<u32>,
    pub(super) engine: String,
    pub(super) masked: bool,
    pub(super) hardened: bool,
    pub(super) conformance: bool,
    pub(super) release: bool,
    pub(super) single_step: bool,
    pub(super) icount: bool,
    pub(super) append: String,
    pub(super) limit: u64,
}

impl Default for Machine {
    fn default() -> Self {
        Self {
            smp: 1,
            nodes: 1,
            mem: 128,
            low: None,
            engine: "slub".to_owned(),
            masked: false,
            hardened: false,
            conformance: false,
            release: false,
            single_step: false,
            icount: false,
            append: String::new(),
            limit: 60,
        }
    }
}

/// How a boot ended.
pub(super) struct Ended {
    /// QEMU's status; `None`: stopped, or not started.
    pub(super) status: Option<i32>,
    pub(super) timed_out: bool,
    /// What came out of the serial port.
    pub(super) log: Vec<String>,
}

impl Ended {
    /// The tests that the kernel ran, and its verdict as one more.
    pub(super) fn count(&self) -> Count {
        let mut count = Count::of(self.status == Some(PASSED));
        for line in self.log.iter().filter_map(|line| line.strip_prefix("test ")) {
            let outcome = line.split(' ').nth(1).unwrap_or_default();
            match outcome {
                "ok" => count.passed += 1,
                "FAILED:" => count.failed += 1,
                _ => {}
            }
        }
        count
    }

    /// What a status that is not a pass means.
    pub(super) fn verdict(&self) -> String {
        match self.status {
            _ if self.timed_out => "it hangs: stopped".to_owned(),
            Some(PASSED) => "passed".to_owned(),
            Some(35) => "the kernel says that it failed".to_owned(),
            Some(0) => "the machine was reset or turned off without a verdict (a triple fault?)".to_owned(),
            Some(other) => format!("QEMU ended with status {other}"),
            None => "QEMU was killed or did not start".to_owned(),
        }
    }
}

/// What QEMU has to complain about itself.
fn complaints(errors: impl Read) -> String {
    let mut bytes = Vec::new();
    match BufReader::new(errors).read_to_end(&mut bytes) {
        Ok(_) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => error.to_string(),
    }
}

impl Machine {
    /// The machine that the options describe; `None`: somebody asks for help.
    pub(super) fn parse(arguments: &[String]) -> Result<Option<Self>, String> {
        let mut machine = Self::default();
        let mut rest = arguments.iter();
        while let Some(option) = rest.next() {
            let mut value = || rest.next().ok_or_else(|| format!("{option} wants a value"));
            let number = |text: &String| text.parse().map_err(|_| format!("{option}: `{text}` is no number"));
            match option.as_str() {
                "--smp" => machine.smp = number(value()?)?,
                "--nodes" => machine.nodes = number(value()?)?,
                "--mem" => machine.mem = number(value()?)?,
                "--low" => machine.low = Some(number(value()?)?),
                "--limit" => machine.limit = u64::from(number(value()?)?),
                "--append" => machine.append.clone_from(value()?),
                "--engine" => machine.engine.clone_from(value()?),
                "--conformance" => machine.conformance = true,
                "--masked" => machine.masked = true,
                "--hardened" => machine.hardened = true,
                "--release" => machine.release = true,
                "--single-step" => machine.single_step = true,
                "--icount" => machine.icount = true,
                "--help" | "-h" => return Ok(None),
                other => return Err(format!("no option `{other}`")),
            }
        }
        let Self { smp, nodes, mem, .. } = machine;
        if smp == 0 || nodes == 0 || smp % nodes != 0 || mem % nodes != 0 || mem < 64 {
            return Err(format!(
                "{smp} CPUs and {mem} MB do not go evenly into {nodes} nodes, or are too few"
            ));
        }
        if !ENGINES.contains(&machine.engine.as_str()) {
            return Err(format!("no engine `{}`", machine.engine));
        }
        Ok(Some(machine))
    }

    /// In a few words.
    pub(super) fn name(&self) -> String {
        let mut name = format!("{} {} cpus {} nodes {} MB", self.engine, self.smp, self.nodes, self.mem);
        if let Some(low) = self.low {
            name = format!("{name}, {low} low");
        }
        for (set, word) in [
            (self.conformance, "conformance"),
            (self.masked, "masked"),
            (self.hardened, "hardened"),
            (self.release, "release"),
            (self.single_step, "single-step"),
            (self.icount, "icount"),
        ] {
            if set {
                name.push(' ');
                name.push_str(word);
            }
        }
        if !self.append.is_empty() {
            name = format!("{name} {}", self.append);
        }
        name
    }

    /// Builds the kernel for it, and keeps the image under a name of its own, so that builds do not replace one another.
    pub(super) fn build(&self) -> Count {
        let mut cargo = tree::cargo();
        cargo.args(["build", "--quiet", "-p", "kmem-kernel", "--features", &self.features().join(",")]);
        cargo.args(["--profile", self.profile().0]);
        if self.release {
            // Incremental compilation cuts the code into other parts, and counts of instructions would depend on it.
            cargo.env("CARGO_INCREMENTAL", "0");
        }
        let built = Step::new("build the kernel", cargo).run();
        if built.failed > 0 {
            return built;
        }
        let from = tree::target().join(self.profile().1).join("kmem-kernel");
        match std::fs::copy(&from, self.image()) {
            Ok(_) => built,
            Err(error) => {
                println!("    cannot copy {}: {error}", from.display());
                Count::FAILED
            }
        }
    }

    /// Cargo's profile, and the directory of its products. The suite is large and counts no instructions: without whole-program
    /// optimisation it is built in half the time.
    fn profile(&self) -> (&str, &str) {
        match (self.release, self.conformance) {
            (false, _) => ("dev", "debug"),
            (true, false) => ("release", "release"),
            (true, true) => ("long", "long"),
        }
    }

    fn features(&self) -> Vec<&str> {
        let engine = (self.engine != "slub").then_some(self.engine.as_str());
        let flags = [(self.masked, "masked"), (self.hardened, "hardened"), (self.conformance, "conformance")];
        engine.into_iter().chain(flags.into_iter().filter(|(set, _)| *set).map(|(_, name)| name)).collect()
    }

    fn image(&self) -> PathBuf {
        let name = self
            .features()
            .iter()
            .fold(format!("kernel-{}", self.profile().1), |name, part| name + "-" + part);
        tree::target().join("xtask").join(name)
    }

    fn qemu(&self) -> Command {
        let mut qemu = tree::command(QEMU);
        qemu.args(["-nodefaults", "-accel", "tcg", "-display", "none", "-serial", "stdio", "-no-reboot"]);
        qemu.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=4"]);
        qemu.args(["-m", &self.mem.to_string(), "-smp", &self.smp.to_string()]);
        if let Some(low) = self.low {
            qemu.args(["-machine", &format!("pc,max-ram-below-4g={low}M")]);
        }
        if self.nodes > 1 {
            let (cpus, mem) = (self.smp / self.nodes, self.mem / self.nodes);
            for node in 0..self.nodes {
                let (first, last) = (node * cpus, (node + 1) * cpus - 1);
                qemu.args(["-object", &format!("memory-backend-ram,size={mem}M,id=m{node}")]);
                qemu.args(["-numa", &format!("node,memdev=m{node},cpus={first}-{last}")]);
            }
        }
        if self.single_step {
            qemu.arg("-singlestep");
        }
        if self.icount {
            qemu.args(["-icount", "shift=0,sleep=off"]);
        }
        qemu.arg("-kernel").arg(self.image());
        if !self.append.is_empty() {
            qemu.args(["-append", &self.append]);
        }
        qemu
    }

    /// Boots it. Each line goes to `show` as it comes. What hangs is stopped.
    pub(super) fn boot(&self, mut show: impl FnMut(&str)) -> Ended {
        let mut ended = Ended { status: None, timed_out: false, log: Vec::new() };
        let mut command = self.qemu();
        // A group of its own: an interrupt at the terminal ends this program, and the pipe's end then ends QEMU's console.
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) => {
                ended.log.push(format!("cannot run {QEMU}: {error} (scripts/install-deps installs it)"));
                return ended;
            }
        };
        let output = child.stdout.take();
        let errors = child.stderr.take();
        let errors = std::thread::spawn(move || errors.map_or_else(String::new, complaints));
        let pid = child.id() as libc::pid_t;
        let over = Arc::new(AtomicBool::new(false));
        let watch = {
            let (over, limit) = (Arc::clone(&over), Duration::from_secs(self.limit));
            std::thread::spawn(move || {
                let start = Instant::now();
                while !over.load(Ordering::Acquire) {
                    if start.elapsed() > limit {
                        // SAFETY: our own child, which is not reaped before this thread has ended.
                        unsafe { libc::kill(pid, libc::SIGKILL) };
                        return true;
                    }
                    std::thread::sleep(Duration::from_millis(10));
                }
                false
            })
        };
        for line in output.into_iter().flat_map(|output| BufReader::new(output).split(b'\n')) {
            let Ok(line) = line else { break };
            let line = String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned();
            show(&line);
            ended.log.push(line);
        }
        // Its output has ended; it may still run, so the watch goes on until it is gone.
        // SAFETY: a status of plain bytes; WNOWAIT leaves the child to be reaped below.
        unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            libc::waitid(libc::P_PID, pid as libc::id_t, &raw mut info, libc::WEXITED | libc::WNOWAIT);
        }
        over.store(true, Ordering::Release);
        let errors = errors.join().unwrap_or_default();
        errors.lines().for_each(&mut show);
        ended.log.extend(errors.lines().map(str::to_owned));
        ended.timed_out = watch.join().unwrap_or(false);
        ended.status = child.wait().ok().and_then(|status| status.code());
        ended
    }

    /// Whether this computer has the memory that the machine wants, and some more.
    pub(super) fn fits(&self) -> bool {
        let available = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let kib =
            available.lines().find_map(|line| line.strip_prefix("MemAvailable:")?.split_whitespace().next());
        kib.and_then(|kib| kib.parse::<u64>().ok()).is_some_and(|kib| kib >> 10 > u64::from(self.mem) + 2048)
    }

    /// Builds the kernel and boots it, showing everything.
    pub(super) fn build_and_watch(&self) -> Count {
        if self.build().failed > 0 {
            return Count::FAILED;
        }
        let ended = self.boot(|line| println!("{line}"));
        if ended.log.len() == 1 && ended.status.is_none() {
            println!("{}", ended.log[0]);
        }
        println!("{}: {}", self.name(), ended.verdict());
        ended.count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Option<Machine>, String> {
        Machine::parse(&text.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn options_describe_a_machine() {
        let machine = parse("--smp 4 --nodes 2 --mem 192 --masked --engine slob").unwrap().unwrap();
        assert_eq!((machine.smp, machine.nodes, machine.mem, machine.masked), (4, 2, 192, true));
        assert_eq!(machine.name(), "slob 4 cpus 2 nodes 192 MB masked");
        assert_eq!(parse("--help"), Ok(None));
        for wrong in
            ["--smp", "--smp x", "--smp 3 --nodes 2", "--mem 32", "--cpus 2", "--smp 0", "--engine x"]
        {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_a_verdict_passes() {
        let ended = |status, timed_out, log: &str| Ended {
            status,
            timed_out,
            log: log.lines().map(str::to_owned).collect(),
        };
        let log = "test a ok (1 ms)\ntest b FAILED: why\ntested\ntest c ok (0 ms)";
        assert_eq!(ended(Some(33), false, log).count(), Count { passed: 3, failed: 1 });
        for status in [Some(0), Some(35), Some(1), None] {
            assert_eq!(ended(status, false, "test a ok (1 ms)").count(), Count { passed: 1, failed: 1 });
        }
        assert!(ended(None, true, "").verdict().contains("hangs"));
    }
}
