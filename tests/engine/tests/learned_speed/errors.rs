//! How far predictions are from what happens, and for how long after a change.

use crate::drive::{Mix, Run, Slowdown};

/// Mean errors in percent: first token, token, forecast, and by how much the forecast is worse than that with true constants.
#[track_caller]
fn check(profile: &str, mix: Mix, load: f64, most: [f64; 4]) {
    let run = Run::of(profile, mix, load, None);
    let [first_token, token, forecast, by_truth] = run.errors(200..1_000);
    let found = [first_token, token, forecast, forecast - by_truth];
    println!("{profile:13} {mix:?} {load:.2}: {found:5.2?}, last errors {:.3?}", run.reported_errors);
    let is_within = found.iter().zip(most).all(|(found, most)| *found <= most);
    assert!(is_within, "{profile} {mix:?} at {load}: {found:.2?}, at most {most:?}\n{:?}", run.learned);
}

#[test]
fn short_prompts_are_predicted_within_five_percent_at_every_load() {
    for profile in ["8b-h100", "8b-a100", "70b-h100-tp4", "70b-a100-tp4"] {
        for load in [0.3, 0.6, 0.85] {
            check(profile, Mix::Chat, load, [5.0, 2.0, 15.0, 1.0]);
        }
    }
}

#[test]
fn long_and_shared_prompts_are_predicted_within_five_percent_at_every_load() {
    for profile in ["8b-h100", "8b-a100", "70b-h100-tp4", "70b-a100-tp4"] {
        for load in [0.3, 0.6, 0.85] {
            check(profile, Mix::Mixed, load, [5.0, 2.0, 10.0, 1.0]);
        }
    }
}

/// The mean error of steps that start between the two times after the slowdown, in percent.
#[track_caller]
fn check_slowdown(profile: &str, mix: Mix, load: f64, speed: f64, from_s: f64) {
    let run = Run::of(profile, mix, load, Some(Slowdown { request: 500, speed }));
    let (before, after) = (run.step_error(-5.0, 0.0), run.step_error(from_s, from_s + 10.0));
    println!(
        "{profile:13} {mix:?} {load:.2} at {speed} of its speed: {before:.1} %, then after {from_s} s {after:.1} %"
    );
    assert!(
        after < 10.0,
        "{profile} {mix:?} at {load}: {after:.1} % from {from_s} s on, {before:.1} % before"
    );
}

#[test]
fn a_slowdown_is_followed_within_a_second_where_steps_without_prompts_are_left() {
    for mix in [Mix::Chat, Mix::Mixed] {
        for profile in ["8b-h100", "70b-h100-tp4", "70b-a100-tp4"] {
            check_slowdown(profile, mix, 0.3, 0.5, 1.0);
            check_slowdown(profile, mix, 0.6, 0.5, 1.0);
        }
    }
}
