//! What one call of the program does: for each trace, each policy, one line.

use std::collections::VecDeque;
use std::io::Write;
use std::sync::Mutex;
use std::sync::mpsc;

use anyhow::{Context as _, Result, anyhow};

use crate::capacity::{at, capacity, highest};
use crate::decision::{count, measure, run_counted};
use crate::failures::Failures;
use crate::flags::Flags;
use crate::matrix::matrix;
use crate::policy::Policy;
use crate::report::{Line, Question, line};
use crate::search::search;
use crate::trace::{Trace, read};
use crate::world::Setting;

/// Runs what the flags ask for and writes a line for each trace and policy, in that order. What finds no result is named to `said`, and
/// the others go on.
///
/// # Errors
/// A flag or a trace that cannot be used; at the end, where something found no result.
pub fn run(flags: &Flags, out: &mut impl Write, said: &mut impl Write) -> Result<()> {
    let setting = flags.setting()?;
    if flags.decision {
        return decision(flags, setting, out);
    }
    let traces = flags.trace.iter().map(|path| read(path)).collect::<Result<Vec<_>>>()?;
    let mut failures = Failures::named_to(said);
    if let Some(file) = &flags.matrix {
        let all: Vec<_> = Policy::all().collect();
        let policies = if flags.policy.is_empty() { &all } else { &flags.policy };
        matrix(&traces, setting, policies, flags.seeds, (file, out), &mut failures)?;
        return failures.end();
    }
    if flags.search {
        return search(&traces, setting, out);
    }
    if !flags.json {
        writeln!(out, "{}", Line::HEAD)?;
    }
    for trace in traces {
        let (question, scale) = match question(flags, &trace, setting) {
            Ok(known) => known,
            Err(error) => {
                failures.name(&error)?;
                continue;
            }
        };
        in_parallel(
            flags.policy.clone(),
            |policy| Ok(one(&trace, setting, policy, question, scale)),
            |found| {
                match found {
                    Ok(line) if flags.json => writeln!(out, "{}", serde_json::to_string(&line)?)?,
                    Ok(line) => writeln!(out, "{}", line.row())?,
                    Err(error) => failures.name(&error)?,
                }
                Ok(out.flush()?)
            },
        )?;
    }
    failures.end()
}

fn decision(flags: &Flags, setting: Setting, out: &mut impl Write) -> Result<()> {
    if let Some(case) = flags.counted {
        run_counted(case, &setting.profile, &setting.weights, setting.seed);
        return Ok(());
    }
    if flags.instructions {
        let others = std::env::args_os().skip(1).filter(|argument| argument != "--instructions");
        return count(&others.collect::<Vec<_>>(), out);
    }
    measure(&setting.profile, &setting.weights, setting.seed, out)
}

/// What is asked, and at which compression of time if that is known.
fn question(flags: &Flags, trace: &Trace, setting: Setting) -> Result<(Question, f64)> {
    if let Some(scale) = flags.scale {
        return Ok((Question::Scale, scale));
    }
    let Some(load) = flags.load else { return Ok((Question::Capacity, 1.0)) };
    let oracle = capacity(trace, setting, Policy::Oracle)
        .with_context(|| format!("searching the oracle's capacity on {}", trace.name))?;
    Ok((Question::Load { share: load, of: oracle.capacity() }, load * oracle.scale))
}

fn one(trace: &Trace, setting: Setting, policy: Policy, question: Question, scale: f64) -> Result<Line> {
    let found = match question {
        Question::Capacity => highest(trace, setting, policy),
        Question::Load { .. } | Question::Scale => at(trace, setting, policy, scale),
    };
    let found = found.with_context(|| format!("{policy} on {}", trace.name))?;
    Ok(line(trace, &setting, policy, question, &found))
}

/// Does jobs on all cores and hands over their results in the order of the jobs, each as soon as it and those before it are there.
///
/// # Errors
/// That of the first job, in that order, or of `take`.
pub fn in_parallel<Job: Send, Done: Send>(
    jobs: Vec<Job>,
    work: impl Fn(Job) -> Result<Done> + Sync,
    mut take: impl FnMut(Done) -> Result<()>,
) -> Result<()> {
    let count = jobs.len();
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(count);
    let queue: Mutex<VecDeque<_>> = Mutex::new(jobs.into_iter().enumerate().collect());
    let (sender, receiver) = mpsc::sync_channel(count.max(1));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            let sender = sender.clone();
            scope.spawn(|| {
                let sender = sender;
                while let Some((place, job)) = queue.lock().ok().and_then(|mut jobs| jobs.pop_front()) {
                    if sender.send((place, work(job))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        let mut results: Vec<Option<Result<Done>>> = (0..count).map(|_| None).collect();
        let mut next = 0;
        for (place, result) in receiver {
            results[place] = Some(result);
            while let Some(result) = results.get_mut(next).and_then(Option::take) {
                take(result?)?;
                next += 1;
            }
        }
        if next == count { Ok(()) } else { Err(anyhow!("a run ended without a result")) }
    })
}
