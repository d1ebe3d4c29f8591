//! What a sidecar knows of a request, in sentences and tables.

use super::{Attempt, Cost, Counts, Ended, Level, Load, Outcome, Page, Questions, Request, Row};
use crate::fetch::Site;
use crate::output::{self, Cell, Colour, Ink};

/// What the columns of costs mean.
const LEGEND: &str = "\
COST is the sum of WAIT (the prompts before it), PROMPT (its own, without what is cached there), ROOM (until there is memory or a place for it),
OTHERS (what it takes from those who are there, weighed), HARM (by how much it would break what they were promised, weighed) and MORE (for its
weight, for another zone, for an adapter that it has not loaded, or for a session that belongs elsewhere), in ms.
CHANCE is that of being drawn. REPORT is the age of what the endpoint's sidecar had said, SINCE what this sidecar had sent there meanwhile.
";

/// The same for what generates no text.
const CALL_LEGEND: &str = "\
COST of a call is the sum of WAIT (the calls before it), OWN (itself) and MORE (for its weight, for another zone, or for a session that belongs
elsewhere), in ms, at the speed that the endpoint has shown, or is taken to have while it has not.
CHANCE is that of being drawn. REPORT is the age of what the endpoint's sidecar had said of calls, SINCE what this sidecar had sent there meanwhile.
";

pub(super) fn page(page: &Page, site: &Site, colour: Colour) -> String {
    let requests: Vec<String> = page.requests.iter().map(|request| told(request, site, colour)).collect();
    let mut text = requests.join("\n");
    for (is_call, legend) in [(false, LEGEND), (true, CALL_LEGEND)] {
        let mut requests = page.requests.iter().filter(|request| request.call.is_some() == is_call);
        if requests.any(Request::is_priced) {
            text.push_str(&format!("\n{}\n", colour.paint(Ink::Dim, legend.trim_end())));
        }
    }
    text
}

fn told(request: &Request, site: &Site, colour: Colour) -> String {
    let head = format!("request {}", request.request_id.0);
    let mut text = colour.paint(Ink::Bold, &head);
    text.push_str(&format!(
        ", {} ago, to Backend {}, as the sidecar at {} tells\n",
        span(request.ago_ms),
        request.backend.0,
        site.url("")
    ));
    let wanted = wanted(request);
    if !wanted.is_empty() {
        text.push_str(&format!("{wanted}\n"));
    }
    for (number, attempt) in request.attempts.iter().enumerate() {
        text.push('\n');
        text.push_str(&tried(request, attempt, number, colour));
    }
    text.push('\n');
    text.push_str(&came_of(request, colour));
    text
}

/// What it asked for, as far as that counted.
fn wanted(request: &Request) -> String {
    let mut told = Vec::new();
    if let Some(call) = &request.call {
        told.push(match (&*call.unit.0, call.units) {
            ("items", _) => "It was a call of which nothing told how large it is.".to_owned(),
            (unit, units) => format!("It was a call of {}.", counted(units, unit.trim_end_matches('s'))),
        });
    }
    if let Some(tokens) = request.prompt_tokens {
        told.push(format!("Its prompt was taken to have {} tokens.", grouped(tokens)));
        if let Some(ms) = request.promised.first_token_ms {
            told.push(format!("Its caller asked for the first token within {}.", span(ms)));
        }
        if let Some(ms) = request.promised.token_ms {
            told.push(format!("Its caller asked for each further token within {}.", span(ms)));
        }
        if let Some(ms) = request.promised.wait_ms {
            told.push(format!("It may wait for {}.", span(ms)));
        }
    }
    told.join(" ")
}

fn tried(request: &Request, attempt: &Attempt, number: usize, colour: Colour) -> String {
    let mut text = colour.paint(Ink::Bold, &format!("Attempt {}", number + 1));
    text.push_str(&format!(", {} after it came: {}\n", span(attempt.at_ms), chosen(attempt)));
    text.push_str(&open(&attempt.counts));
    text.push('\n');
    if !attempt.endpoints.is_empty() {
        text.push_str(&table(attempt, request.call.is_some(), colour));
    }
    if attempt.nobody.is_none() {
        text.push_str(&ended(attempt, request.outcome.is_some()));
        if let Some(ms) = attempt.waited_ms {
            text.push_str(&format!(
                " Of that it waited {} at the server, for answers under way there to gain time.",
                span(ms)
            ));
        }
        text.push('\n');
    }
    if let Some(questions) = &attempt.questions {
        text.push_str(&asked(questions));
    }
    text
}

/// Which one was chosen, and why that one.
fn chosen(attempt: &Attempt) -> String {
    let (Some(reason), Some(row)) = (&attempt.reason, attempt.endpoints.first()) else {
        let nobody = attempt.nobody.as_ref().map_or("no endpoint was chosen", |nobody| &nobody.0);
        return format!("nobody was chosen: {nobody}.");
    };
    let why = match (&*reason.0, &row.cost, &attempt.level) {
        ("only", _, _) => "the only one that could be chosen".to_owned(),
        ("least_cost", Some(cost), Some(level)) => by_cost(attempt, cost, level),
        ("least_load", _, _) => by_load(attempt, row),
        ("affinity", _, _) => "where its session belongs, or would if its home had room".to_owned(),
        ("turn", _, _) => "whose turn it was (the policy is RoundRobin)".to_owned(),
        ("lot", _, _) => "by lot (the policy is Random)".to_owned(),
        (other, _, _) => other.to_owned(),
    };
    format!("{}, {why}.", row.endpoint.0)
}

fn by_cost(attempt: &Attempt, cost: &Cost, level: &Level) -> String {
    let others = attempt.endpoints[1..].iter().filter(|row| row.state.0 == "open");
    let next = others
        .filter_map(|row| Some((row, row.cost.as_ref()?.total_ms)))
        .min_by(|(_, one), (_, other)| one.total_cmp(other));
    let place = match next {
        Some((row, next_ms)) if next_ms < cost.total_ms => {
            format!(
                "for {}, which was not the least ({} at {})",
                span(cost.total_ms),
                span(next_ms),
                row.endpoint.0
            )
        }
        Some((row, next_ms)) => {
            format!(
                "because it cost least, {} against {} at {}",
                span(cost.total_ms),
                span(next_ms),
                row.endpoint.0
            )
        }
        None => "because it cost least".to_owned(),
    };
    let chance = cost.chance.unwrap_or(1.0);
    let lot = format!("the lot fell on it with a chance of {:.0} %", chance * 100.0);
    if chance > 0.995 {
        place
    } else if level.near {
        let share = level.near_share * 100.0;
        format!("{place}: costs within about {share:.0} % of the least are not told apart, and {lot}")
    } else {
        let (expected, level) = (span(level.expected_ms), span(level.level_ms));
        format!(
            "{place}: since the reports others are expected to have sent {expected} of work, which fills up all that cost less than {level}, and {lot}"
        )
    }
}

fn by_load(attempt: &Attempt, row: &Row) -> String {
    let by_tokens = attempt.policy.0 == "LeastCost";
    let load = |row: &Row| {
        let requests = counted(row.inflight, "request");
        if by_tokens {
            format!("{} prompt tokens in {requests}", grouped(row.tokens_inflight))
        } else {
            requests
        }
    };
    let whose = "that this sidecar had under way there";
    let compared = match attempt.endpoints.iter().find(|other| other.role.0 == "compared") {
        Some(other) => {
            format!(
                "of two that were drawn the less loaded: {} {whose}, against {} of {}",
                load(row),
                load(other),
                other.endpoint.0
            )
        }
        None => format!("the least loaded of all: {} {whose}", load(row)),
    };
    if by_tokens {
        format!(
            "{compared}; what it costs was not known everywhere, because an endpoint has no sidecar or the request has nothing by which it can be sized"
        )
    } else {
        format!(
            "{compared} (the policy is {})",
            if attempt.policy.0 == "P2c" { "P2C" } else { &attempt.policy.0 }
        )
    }
}

/// How many could be chosen, and what kept the others from it.
fn open(counts: &Counts) -> String {
    let Counts { open, full, spare, tried, ejected, unready, draining, other_model } = *counts;
    let all = open + full + spare + tried + ejected + unready + draining + other_model;
    let others = [
        (tried, "tried before"),
        (full, "full (as many requests of this sidecar as the policy allows)"),
        (draining, "draining"),
        (other_model, "not serving the model"),
        (unready, "not ready"),
        (ejected, "ejected"),
        (spare, "spare (not among those that this sidecar uses of a large Backend)"),
    ];
    let others: Vec<String> = others
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{} {what}", grouped(*count)))
        .collect();
    let others =
        if others.is_empty() { String::new() } else { format!("; the others: {}", others.join(", ")) };
    format!("{} of {} could be chosen{others}.", grouped(open), counted(all, "endpoint"))
}

fn table(attempt: &Attempt, is_call: bool, colour: Colour) -> String {
    let is_priced = attempt.endpoints.iter().any(|row| row.cost.is_some());
    let terms: &[Term] = match (is_priced, is_call) {
        (false, _) => &[],
        (true, false) => &PROMPT_TERMS,
        (true, true) => &CALL_TERMS,
    };
    let mut head = vec!["ENDPOINT", ""];
    head.extend(terms.iter().map(|(name, _)| *name));
    head.push("UNDER WAY");
    let rows: Vec<Vec<Cell>> = attempt.endpoints.iter().map(|row| cells(row, terms)).collect();
    let mut text = output::table(colour, &head, &rows);
    let counts = &attempt.counts;
    let all = counts.open
        + counts.full
        + counts.spare
        + counts.tried
        + counts.ejected
        + counts.unready
        + counts.draining
        + counts.other_model;
    let more = all.saturating_sub(attempt.endpoints.len() as u64);
    if more > 0 {
        text.push_str(&format!("and {} more, none of them nearer to being chosen\n", grouped(more)));
    }
    text
}

/// A column of costs.
type Term = (&'static str, fn(&Cost) -> String);

const PROMPT_TERMS: [Term; 11] = [
    ("COST", |cost| number(cost.total_ms)),
    ("WAIT", |cost| number(cost.wait_ms)),
    ("PROMPT", |cost| number(cost.prompt_ms)),
    ("ROOM", |cost| number(cost.room_ms)),
    ("OTHERS", |cost| number(cost.others_ms)),
    ("HARM", |cost| number(cost.harm_ms)),
    ("MORE", |cost| number(cost.more_ms)),
    ("CHANCE", chance),
    ("CACHED", |cost| grouped(cost.cached_tokens)),
    ("REPORT", report),
    ("SINCE", |cost| counted(cost.own_since, "request")),
];

const CALL_TERMS: [Term; 7] = [
    ("COST", |cost| number(cost.total_ms)),
    ("WAIT", |cost| number(cost.wait_ms)),
    ("OWN", |cost| number(cost.prompt_ms)),
    ("MORE", |cost| number(cost.more_ms)),
    ("CHANCE", chance),
    ("REPORT", report),
    ("SINCE", |cost| counted(cost.own_since, "call")),
];

fn chance(cost: &Cost) -> String {
    cost.chance.map_or_else(|| "–".to_owned(), |chance| format!("{:.0} %", chance * 100.0))
}

fn report(cost: &Cost) -> String {
    cost.report_age_ms.map_or_else(|| "none".to_owned(), span)
}

fn cells(row: &Row, terms: &[Term]) -> Vec<Cell> {
    let (ink, what) = match (&*row.role.0, &*row.state.0) {
        ("chosen", _) => (Ink::Green, "chosen"),
        ("compared", _) => (Ink::Plain, "compared"),
        (_, "open") => (Ink::Plain, "–"),
        (_, "other_model") => (Ink::Yellow, "other model"),
        (_, state) => (Ink::Yellow, state),
    };
    let mut cells = vec![Cell::new(ink, row.endpoint.0.as_str()), Cell::new(ink, what)];
    cells.extend(terms.iter().map(|(_, text)| match &row.cost {
        Some(cost) => Cell::new(Ink::Plain, text(cost)),
        None => Cell::new(Ink::Dim, "–"),
    }));
    cells.push(Cell::new(Ink::Plain, counted(row.inflight, "request")));
    cells
}

/// How an attempt ended.
fn ended(attempt: &Attempt, is_over: bool) -> String {
    let since = |at_ms: &f64| span((at_ms - attempt.at_ms).max(0.0));
    match &attempt.ended {
        None if is_over => "No answer came from it before the request ended.".to_owned(),
        None => "No answer has come from it yet.".to_owned(),
        Some(Ended::Answered { at_ms, status }) => format!("It answered {status} after {}.", since(at_ms)),
        Some(Ended::Failed { at_ms, fault, message }) => {
            format!("It failed after {}: {} ({}).", since(at_ms), message.0, fault.0)
        }
        Some(Ended::Refused { at_ms, reason, first_token_ms, load }) => {
            let willing_ms = attempt.patience.as_ref().and_then(|patience| patience.first_token_ms);
            let stood = load.as_ref().map(stood).unwrap_or_default();
            format!(
                "Its sidecar refused it after {}: {}.{stood}",
                since(at_ms),
                refusal(&reason.0, *first_token_ms, willing_ms)
            )
        }
    }
}

/// Who was asked before the next attempt.
fn asked(questions: &Questions) -> String {
    let Questions { asked, answered, took_ms } = *questions;
    format!(
        "Before it was sent once more, {} {} asked how loaded they are, since their last reports were old; {} answered, within {}.\n",
        counted(asked, "endpoint"),
        if asked == 1 { "was" } else { "were" },
        grouped(answered),
        span(took_ms)
    )
}

fn refusal(reason: &str, first_token_ms: Option<f64>, willing_ms: Option<f64>) -> String {
    let first = first_token_ms
        .map_or_else(|| "at a time that it did not tell".to_owned(), |ms| format!("after {}", span(ms)));
    match reason {
        "memory" => {
            format!("there is no KV memory or place for it in time; its first token would have come {first}")
        }
        "late" => format!("its first token would have come {first}, later than was promised"),
        "promised" => {
            format!(
                "somebody who is there would have got a token later than was promised; its own first token would have come {first}"
            )
        }
        "elsewhere" => {
            let willing = willing_ms.map(|ms| format!(" ({})", span(ms))).unwrap_or_default();
            format!(
                "its first token would have come {first}, later than this sidecar waits{willing} before it would rather ask another"
            )
        }
        other => format!("{other}; its first token would have come {first}"),
    }
}

fn stood(load: &Load) -> String {
    let memory = match load.kv_tokens_total {
        0 => String::new(),
        total => {
            format!(", {:.0} % of its KV memory held", load.kv_tokens_used as f64 / total as f64 * 100.0)
        }
    };
    format!(
        " It had {} prompt tokens to compute, {} running and {} waiting{memory}.",
        grouped(load.prompt_tokens_pending.max(0.0) as u64),
        counted(load.sequences_running, "sequence"),
        grouped(load.sequences_waiting)
    )
}

/// What came of the request.
fn came_of(request: &Request, colour: Colour) -> String {
    let Some(outcome) = &request.outcome else {
        return format!("{}.\n", colour.paint(Ink::Yellow, "It is still under way"));
    };
    let (ink, what) = match (&*outcome.classification.0, outcome.status) {
        ("success", status) => (Ink::Green, format!("Answered {status}")),
        ("cancelled", _) => (Ink::Yellow, "Its caller left".to_owned()),
        ("shed", status) => (Ink::Yellow, format!("Turned away with {status}")),
        (_, 0) => (Ink::Red, "Failed without an answer".to_owned()),
        (_, status) => (Ink::Red, format!("Failed with {status}")),
    };
    let mut text = colour.paint(ink, &what);
    text.push_str(&format!(" after {}", span(outcome.at_ms)));
    if let Some(error) = &outcome.error {
        text.push_str(&format!(", {}", error.0));
    }
    if let Some(message) = &outcome.message {
        text.push_str(&format!(": {}", message.0.trim_end_matches('.')));
    }
    text.push_str(".\n");
    text.push_str(&against_belief(request, outcome));
    text.push_str(&counted_tokens(request, outcome));
    text
}

/// When the answer came, and when it was believed that it would.
fn against_belief(request: &Request, outcome: &Outcome) -> String {
    let (Some(first_ms), what) = (match outcome.first_token_ms {
        Some(ms) => (Some(ms), "first token"),
        None => (outcome.first_byte_ms, "first byte"),
    }) else {
        return String::new();
    };
    // Who is turned away hears from us alone, and at once.
    if outcome.classification.0 == "shed" {
        return String::new();
    }
    let last = request.attempts.last();
    let believed = last.and_then(|attempt| {
        let cost = attempt.endpoints.first().filter(|row| row.role.0 == "chosen")?.cost.as_ref()?;
        Some((first_ms - attempt.at_ms, cost.first_token_ms, outcome.first_token_ms.is_some()))
    });
    let came = format!("The {what} came {} after the request", span(first_ms));
    match believed {
        None => format!("{came}.\n"),
        Some((took_ms, believed_ms, true)) => format!(
            "{came}: {} after the endpoint was chosen, and {} were predicted then.\n",
            span(took_ms),
            span(believed_ms)
        ),
        Some((.., false)) if outcome.classification.0 != "success" => format!("{came}.\n"),
        Some((took_ms, believed_ms, false)) if request.call.is_some() => format!(
            "{came}: {} after the endpoint was chosen, and {} were predicted then.\n",
            span(took_ms),
            span(believed_ms)
        ),
        Some((took_ms, believed_ms, false)) => format!(
            "{came}: {} after the endpoint was chosen. {} were predicted for the first token; the answer came whole, so that all of it had been computed before.\n",
            span(took_ms),
            span(believed_ms)
        ),
    }
}

fn counted_tokens(request: &Request, outcome: &Outcome) -> String {
    let Some(input) = outcome.input_tokens else { return String::new() };
    let call = request.call.as_ref().filter(|call| call.unit.0 == "tokens").map(|call| call.units);
    let estimated = request
        .prompt_tokens
        .or(call)
        .map(|tokens| format!(" ({} were estimated)", grouped(tokens)))
        .unwrap_or_default();
    let cached = outcome
        .cached_tokens
        .map(|tokens| format!(", {} of them cached", grouped(tokens)))
        .unwrap_or_default();
    let output = outcome
        .output_tokens
        .map(|tokens| format!(", and {} of the answer", grouped(tokens)))
        .unwrap_or_default();
    let of = if request.call.is_some() { "what was sent" } else { "the prompt" };
    format!("The engine counted {} tokens of {of}{estimated}{cached}{output}.\n", grouped(input))
}

/// A time, as precise as it is short.
fn span(ms: f64) -> String {
    if ms >= 10_000.0 { format!("{:.1} s", ms / 1e3) } else { format!("{} ms", number(ms)) }
}

fn number(ms: f64) -> String {
    if ms < 10.0 { format!("{ms:.1}") } else { grouped(ms.round() as u64) }
}

/// Digits by threes.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn counted(number: u64, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{} {noun}s", grouped(number)) }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    const PAGE: &str = include_str!("../../tests/fixtures/why.json");

    fn site() -> Site {
        Site::at("127.0.0.1:4791")
    }

    #[test]
    fn every_kind_of_decision_has_its_words() {
        let read = Page::read(serde_json::from_str(PAGE).unwrap()).unwrap();
        output::golden("why.txt", &page(&read, &site(), Colour::Off));
    }

    #[test]
    fn what_callers_and_endpoints_wrote_cannot_steer_the_terminal() {
        fn poison(value: &mut Value) {
            match value {
                Value::String(text) => text.push_str("\u{1b}]0;x\u{7}\u{202e}\r"),
                Value::Array(all) => all.iter_mut().for_each(poison),
                Value::Object(all) => {
                    all.iter_mut().filter(|(name, _)| *name != "how").for_each(|(_, value)| poison(value));
                }
                _ => {}
            }
        }
        let mut read: Value = serde_json::from_str(PAGE).unwrap();
        poison(&mut read);
        let text = page(&Page::read(read).unwrap(), &site(), Colour::Off);
        assert!(text.contains('\u{fffd}'), "{text}");
        assert!(text.chars().all(|c| c == '\n' || (!c.is_control() && c != '\u{202e}')), "{text}");
    }

    #[test]
    fn times_are_as_precise_as_they_are_short() {
        let texts = [0.26, 9.94, 312.4, 1_900.0, 9_999.0, 12_345.0].map(span);
        assert_eq!(texts, ["0.3 ms", "9.9 ms", "312 ms", "1,900 ms", "9,999 ms", "12.3 s"]);
    }

    #[test]
    fn a_page_of_another_kind_is_refused() {
        for other in [serde_json::json!({"kind": "Clusters"}), serde_json::json!({"requests": []})] {
            assert!(Page::read(other).is_err());
        }
    }
}
