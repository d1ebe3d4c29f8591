//! A matrix as a picture: SVG, for a README or a browser.
//!
//! For each trace two panels: the capacity over the age of reports with 64 sidecars, and over the number of sidecars with reports of
//! 1 s, as a share of the oracle's. A policy is a line; one that is central knows neither and is a level line of dashes. Ours is thick.

use crate::matrix::{AGES_MS, Means, SIDECARS, policy_of};
use crate::policy::Policy;

/// Sidecars of the upper panels.
const MANY: u64 = 64;
/// Age of the lower panels, in milliseconds.
const OLD_MS: u64 = 1_000;
/// Highest share that is drawn.
const SHARE_MAX: f64 = 1.1;

/// Sizes in pixels.
const PANEL: (f64, f64) = (250.0, 190.0);
const GAP: (f64, f64) = (46.0, 62.0);
const LEGEND: f64 = 210.0;

/// Colours that are told apart with any kind of sight (Okabe and Ito, 2008); lines beyond them are dotted.
const COLOURS: [&str; 7] = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#999999"];

/// What one row of panels runs over.
struct Axis {
    title: &'static str,
    ticks: Vec<String>,
    /// Sidecars and age in milliseconds of each tick.
    places: Vec<(u64, u64)>,
}

/// The whole picture.
pub(crate) fn plot(means: &Means) -> String {
    let traces = means.traces();
    let axes = [
        Axis {
            title: "age of reports, 64 sidecars",
            ticks: AGES_MS.iter().map(|age| age_text(*age)).collect(),
            places: AGES_MS.iter().map(|age| (MANY, *age)).collect(),
        },
        Axis {
            title: "sidecars, reports of 1 s",
            ticks: SIDECARS.iter().map(ToString::to_string).collect(),
            places: SIDECARS.iter().map(|count| (*count as u64, OLD_MS)).collect(),
        },
    ];
    let width = GAP.0 + traces.len() as f64 * (PANEL.0 + GAP.0) + LEGEND;
    let height = GAP.1 + axes.len() as f64 * (PANEL.1 + GAP.1);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <title>Capacity at 95 % attainment as a share of the oracle's</title>\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n"
    );
    for (row, axis) in axes.iter().enumerate() {
        for (column, trace) in traces.iter().enumerate() {
            let left = GAP.0 + column as f64 * (PANEL.0 + GAP.0);
            let top = GAP.1 * 0.7 + row as f64 * (PANEL.1 + GAP.1);
            panel(&mut svg, means, axis, trace, (left, top));
        }
    }
    legend(&mut svg, means, width - LEGEND);
    svg.push_str("</svg>\n");
    svg
}

fn panel(svg: &mut String, means: &Means, axis: &Axis, trace: &str, (left, top): (f64, f64)) {
    let bottom = top + PANEL.1;
    let across = |tick: usize| left + PANEL.0 * (tick as f64 + 0.5) / axis.places.len() as f64;
    let up = |share: f64| bottom - PANEL.1 * share.min(SHARE_MAX) / SHARE_MAX;
    text(svg, (left + PANEL.0 / 2.0, top - 8.0), "middle", trace);
    text(svg, (left + PANEL.0 / 2.0, bottom + 30.0), "middle", axis.title);
    for percent in [0, 25, 50, 75, 100] {
        let y = up(f64::from(percent) / 100.0);
        let colour = if percent == 100 { "#666666" } else { "#dddddd" };
        line(svg, (left, y), (left + PANEL.0, y), colour);
        text(svg, (left - 5.0, y + 4.0), "end", &format!("{percent} %"));
    }
    for (tick, label) in axis.ticks.iter().enumerate() {
        text(svg, (across(tick), bottom + 15.0), "middle", label);
    }
    for (place, policy) in drawn(means).into_iter().enumerate() {
        let points = axis.places.iter().enumerate().filter_map(|(tick, (sidecars, age_ms))| {
            Some((across(tick), up(means.share(policy, *sidecars, *age_ms, trace)?)))
        });
        let mut points: Vec<_> = points.collect();
        if let Some(share) = central(policy).and_then(|age_ms| means.share(policy, 1, age_ms, trace)) {
            points = vec![(left, up(share)), (left + PANEL.0, up(share))];
        }
        if !points.is_empty() {
            let points: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
            let points = points.join(" ");
            svg.push_str(&format!(
                "<polyline points=\"{points}\" {}><title>{}</title></polyline>\n",
                style(policy, place),
                escaped(policy)
            ));
        }
    }
}

fn legend(svg: &mut String, means: &Means, left: f64) {
    for (place, policy) in drawn(means).into_iter().enumerate() {
        let y = GAP.1 + place as f64 * 19.0;
        svg.push_str(&format!(
            "<polyline points=\"{left},{y} {},{y}\" {}/>\n",
            left + 34.0,
            style(policy, place)
        ));
        text(svg, (left + 42.0, y + 4.0), "start", policy);
    }
}

/// The policies that are compared with the oracle; ours is last and so on top.
fn drawn(means: &Means) -> Vec<&str> {
    let oracle = Policy::Oracle.to_string();
    let mut policies: Vec<&str> =
        means.policies().into_iter().filter(|policy| policy_of(policy) != oracle).collect();
    policies.sort_by_key(|policy| *policy == ours());
    policies
}

fn ours() -> String {
    Policy::LeastCost.to_string()
}

/// Age of a central policy's reports in milliseconds; `None` for one that every sidecar follows by itself.
fn central(policy: &str) -> Option<u64> {
    let policy = Policy::all().find(|known| known.to_string() == policy_of(policy))?;
    policy.central_age_ns().map(|age_ns| age_ns / 1_000_000)
}

fn style(policy: &str, place: usize) -> String {
    if policy == ours() {
        return "fill=\"none\" stroke=\"#000000\" stroke-width=\"3\"".to_owned();
    }
    let dashes = match (central(policy), place / COLOURS.len()) {
        (Some(_), _) => " stroke-dasharray=\"7 4\"",
        (None, 0) => "",
        (None, _) => " stroke-dasharray=\"2 3\"",
    };
    format!("fill=\"none\" stroke=\"{}\" stroke-width=\"1.6\"{dashes}", COLOURS[place % COLOURS.len()])
}

fn line(svg: &mut String, from: (f64, f64), to: (f64, f64), colour: &str) {
    let ((x1, y1), (x2, y2)) = (from, to);
    svg.push_str(&format!(
        "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{colour}\"/>\n"
    ));
}

fn text(svg: &mut String, (x, y): (f64, f64), anchor: &str, words: &str) {
    svg.push_str(&format!(
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"#333333\">{}</text>\n",
        escaped(words)
    ));
}

fn age_text(age_ms: u64) -> String {
    if age_ms >= 1_000 { format!("{} s", age_ms / 1_000) } else { format!("{age_ms} ms") }
}

fn escaped(words: &str) -> String {
    words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_policy_is_a_line_through_what_was_measured_and_a_central_one_is_level() {
        let line = |policy: &str, sidecars: u64, age_ms: u64, capacity: f64| json!({"policy": policy, "trace": "a<b", "seed": 1, "backends": 8, "sidecars": sidecars, "age_ms": age_ms, "capacity": capacity});
        let entry = |line| serde_json::from_value(line).unwrap();
        let central = Policy::all().find(|policy| policy.central_age_ns().is_some()).unwrap();
        let age_ms = central.central_age_ns().unwrap() / 1_000_000;
        let lines = [
            line("oracle", 1, 0, 20.0),
            line("least-cost", 64, 0, 20.0),
            line("least-cost", 64, 1_000, 10.0),
            line(&central.to_string(), 1, age_ms, 5.0),
        ];
        let svg = plot(&Means::of(&lines.map(entry)));
        // 100 % and 50 % of the oracle, at the first and the third of four ticks.
        let (left, bottom) = (GAP.0, GAP.1 * 0.7 + PANEL.1);
        let at = |tick: f64, share: f64| {
            format!("{:.1},{:.1}", left + PANEL.0 * (tick + 0.5) / 4.0, bottom - PANEL.1 * share / SHARE_MAX)
        };
        assert!(svg.contains(&format!("points=\"{} {}\"", at(0.0, 1.0), at(2.0, 0.5))), "{svg}");
        let level = bottom - PANEL.1 * 0.25 / SHARE_MAX;
        assert!(
            svg.contains(&format!("points=\"{left:.1},{level:.1} {:.1},{level:.1}\"", left + PANEL.0)),
            "{svg}"
        );
        assert!(svg.contains("a&lt;b") && !svg.contains("a<b"), "{svg}");
        // Four panels' worth of ours and the central one, and their legend; the oracle is the line at 100 %.
        assert_eq!(svg.matches("<polyline").count(), 2 + 2 + 2, "{svg}");
    }
}
