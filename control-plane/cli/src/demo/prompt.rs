//! Prompts of a given length: the trace has no text, so it is invented. Every prompt begins with a system prompt that all
//! requests of one assistant share, as in life, which is what prefix caches live on; the rest is a text of its own.

use serde_json::json;

use super::trace::Arrival;

/// The usual rule of thumb for English.
const BYTES_PER_TOKEN: usize = 4;
/// 600 tokens, as an assistant with a few rules and tools has.
const SYSTEM_BYTES_MAX: usize = 2_400;
/// Different assistants share nothing.
const ASSISTANTS: [&str; 3] = ["travel", "support", "coding"];

const WORDS: [&str; 64] = [
    "about",
    "after",
    "again",
    "answer",
    "because",
    "before",
    "better",
    "between",
    "bring",
    "change",
    "choose",
    "city",
    "cost",
    "could",
    "detail",
    "different",
    "does",
    "early",
    "every",
    "example",
    "explain",
    "first",
    "follow",
    "from",
    "give",
    "good",
    "great",
    "help",
    "house",
    "idea",
    "keep",
    "know",
    "large",
    "late",
    "learn",
    "letter",
    "light",
    "list",
    "long",
    "make",
    "many",
    "might",
    "morning",
    "much",
    "need",
    "never",
    "night",
    "number",
    "often",
    "order",
    "other",
    "people",
    "place",
    "plan",
    "point",
    "question",
    "quick",
    "reason",
    "right",
    "river",
    "small",
    "start",
    "story",
    "write",
];

/// The body of a streamed chat completion, the `number`-th of the demo. Prompts share caches with those of the same salt alone.
pub(super) fn chat_body(model: &str, number: u64, arrival: &Arrival, salt: Option<&str>) -> Vec<u8> {
    let bytes = arrival.prompt_tokens as usize * BYTES_PER_TOKEN;
    let assistant = ASSISTANTS[(mixed(number) % ASSISTANTS.len() as u64) as usize];
    let system_bytes = SYSTEM_BYTES_MAX.min(bytes / 2);
    let system = prose(&format!("You are the {assistant} assistant."), seed_of(assistant), system_bytes);
    let user = prose(&format!("Question {number}:"), number, bytes - system_bytes);
    let mut body = json!({
        "model": model,
        "messages": [{"role": "system", "content": system}, {"role": "user", "content": user}],
        "max_tokens": arrival.answer_tokens,
        // The answer gets exactly as long as the one in the trace.
        "ignore_eos": true,
        "stream": true,
        "stream_options": {"include_usage": true},
    });
    if let Some(salt) = salt {
        body["cache_salt"] = salt.into();
    }
    body.to_string().into_bytes()
}

/// `bytes` of words behind `opening`, the same for the same seed.
fn prose(opening: &str, seed: u64, bytes: usize) -> String {
    let mut text = String::with_capacity(bytes + 16);
    text.push_str(opening);
    let mut drawn = seed;
    while text.len() < bytes {
        drawn = mixed(drawn);
        text.push(' ');
        text.push_str(WORDS[(drawn % WORDS.len() as u64) as usize]);
    }
    text.truncate(bytes.max(1));
    text
}

fn seed_of(assistant: &str) -> u64 {
    assistant.bytes().fold(0, |seed, byte| mixed(seed ^ u64::from(byte)))
}

/// One step of SplitMix64.
pub(super) fn mixed(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use serde_json::Value;

    use super::*;

    fn prompts(number: u64, prompt_tokens: u32) -> (String, String) {
        let arrival = Arrival { at: Duration::ZERO, prompt_tokens, answer_tokens: 7 };
        let body: Value = serde_json::from_slice(&chat_body("m", number, &arrival, None)).unwrap();
        assert_eq!(body.get("cache_salt"), None);
        assert_eq!(
            (&body["max_tokens"], &body["stream"], &body["model"]),
            (&7.into(), &true.into(), &"m".into())
        );
        let text = |index: usize| body["messages"][index]["content"].as_str().unwrap().to_owned();
        (text(0), text(1))
    }

    #[test]
    fn a_prompt_has_the_length_that_the_trace_says() {
        for tokens in [1, 8, 100, 1_005, 7_650] {
            let (system, user) = prompts(3, tokens);
            assert_eq!(system.len() + user.len(), tokens as usize * BYTES_PER_TOKEN, "{tokens}");
        }
    }

    #[test]
    fn a_salt_changes_nothing_but_itself() {
        let arrival = Arrival { at: Duration::ZERO, prompt_tokens: 100, answer_tokens: 7 };
        let body = |salt| serde_json::from_slice::<Value>(&chat_body("m", 3, &arrival, salt)).unwrap();
        let mut salted = body(Some("pinch"));
        assert_eq!(salted["cache_salt"], "pinch");
        salted.as_object_mut().unwrap().remove("cache_salt");
        assert_eq!(salted, body(None));
    }

    #[test]
    fn system_prompts_are_shared_and_questions_are_not() {
        let all: Vec<_> = (0..30).map(|number| prompts(number, 1_000)).collect();
        let systems: BTreeSet<_> = all.iter().map(|(system, _)| system).collect();
        let users: BTreeSet<_> = all.iter().map(|(_, user)| &user[..64]).collect();
        assert_eq!((systems.len(), users.len()), (ASSISTANTS.len(), 30));
        let (short, _) = prompts(0, 100);
        assert!(
            systems.iter().any(|system| system.starts_with(&short)),
            "a cut prompt shares what is left of it"
        );
    }
}
