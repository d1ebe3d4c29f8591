//! What was decided for the requests of late, on what, and what came of it: for whoever asks later why one went where it went.
//!
//! ```text
//!   begin ─► each attempt: what was considered ─► how it ended ─► the outcome of all      newest ► ▒▒▒▒▒▒▒▒▒ ► oldest is forgotten
//! ```
//!
//! Memory is bounded in number and in bytes, whatever requests are called and however many there are: the oldest goes, also while it
//! is under way, and what is told of it after that is told to nobody.

use std::collections::VecDeque;
use std::hash::{Hash, Hasher};
use std::time::Duration;

use penstock_model::names::BackendId;
use penstock_model::units::Moment;
use siphasher::sip::SipHasher13;

use crate::gate::{Patience, Refusal};
use crate::judge::Class;
use crate::pick::cost::Report;
use crate::pick::{Considered, Row};
use crate::retry::Kind;
use crate::speed::Call;

/// Requests that are remembered.
pub const STORIES_MAX: usize = 4_096;
/// Bytes that they take together, with all that hangs on them. A request that is placed at once among four endpoints takes 1 KiB.
pub const BYTES_MAX: usize = 4 << 20;
/// Of a text that others write, such as the message of a fault, so many bytes are kept.
pub const TEXT_BYTES_MAX: usize = 256;
/// Requests of one id that are told; ids are their callers' choice.
pub const FOUND_MAX: usize = 8;

/// What stories may have on the heap: the table is counted as full.
const HEAP_BYTES_MAX: usize = BYTES_MAX - STORIES_MAX * size_of::<Story>();

/// The stories of the latest requests.
#[derive(Debug, Default)]
pub struct Stories {
    /// Number of the oldest that is kept.
    first: u64,
    kept: VecDeque<Story>,
    heap_bytes: usize,
}

/// Tells one story from others; none is given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Number(u64);

/// One request.
#[derive(Clone, Debug, PartialEq)]
pub struct Story {
    request_id: Box<str>,
    hash: u64,
    /// When its head had been read.
    pub begun: Moment,
    /// Where it was to go.
    pub backend: BackendId,
    /// What it asked for.
    pub asked: Asked,
    /// Each time that an endpoint was to be chosen.
    pub attempts: Vec<Attempt>,
    /// How it ended; `None` while it has not.
    pub outcome: Option<Outcome>,
}

/// What a request asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Asked {
    /// Tokens of its prompt as they were estimated; `None` where costs are not asked.
    pub prompt_tokens: Option<u32>,
    /// What it demands where it is a call, and costs are asked.
    pub call: Option<Call>,
    /// When its first token is due by the caller's word, in milliseconds.
    pub first_token_ms: Option<f64>,
    /// The same from token to token.
    pub token_ms: Option<f64>,
    /// How long it may wait, before its prompt is computed.
    pub wait_ms: Option<f64>,
}

/// One choice of an endpoint, and what came of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Attempt {
    /// When.
    pub at: Moment,
    /// What the choice was made on.
    pub considered: Considered,
    /// How long the endpoint was told that it may take.
    pub patience: Option<Patience>,
    /// How it ended, and when; `None` while it has not.
    pub ended: Option<(Moment, Ended)>,
    /// How long it waited there before it was let in or refused; `None` where it did not.
    pub waited: Option<Duration>,
    /// Who was asked how they stand, since it had been refused; `None` where nobody was.
    pub questions: Option<Questions>,
}

/// Endpoints that were asked how they stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Questions {
    /// How many.
    pub asked: u32,
    /// How many said so in time.
    pub answered: u32,
    /// How long the request waited for it.
    pub took: Duration,
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Ended {
    /// An answer began.
    Answered {
        /// Its status.
        status: u16,
    },
    /// The endpoint's sidecar did not let it in.
    Refused {
        /// Why; `None` where it gave a reason that is not known here.
        reason: Option<Refusal>,
        /// When its first token would have come.
        first_token_ms: Option<u32>,
        /// How the endpoint stood, as it told with the refusal.
        load: Option<Box<Report>>,
    },
    /// It failed.
    Failed {
        /// What happened.
        kind: Kind,
        /// In words.
        message: Box<str>,
    },
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// When.
    pub at: Moment,
    /// Status that the caller received; 0 if none.
    pub status: u16,
    /// How that is counted.
    pub class: Class,
    /// Code of an answer that a sidecar made.
    pub error: Option<&'static str>,
    /// That in words; empty where there is nothing to say.
    pub message: Box<str>,
    /// First byte of the answer's body.
    pub first_byte: Option<Moment>,
    /// First content of a stream.
    pub first_token: Option<Moment>,
    /// Tokens of the prompt, as the engine counted them.
    pub input_tokens: Option<u64>,
    /// Those of them that it had cached.
    pub cached_tokens: Option<u64>,
    /// Tokens of the answer.
    pub output_tokens: Option<u64>,
}

impl Stories {
    /// A request has begun. The oldest is forgotten if there is no room.
    pub fn begin(&mut self, story: Story) -> Number {
        if self.kept.len() == STORIES_MAX {
            self.forget_oldest();
        }
        let number = Number(self.first + self.kept.len() as u64);
        self.heap_bytes += story.heap_bytes();
        self.kept.push_back(story);
        self.make_room();
        number
    }

    /// Something more is known of it; nothing is done if it is forgotten.
    pub fn tell(&mut self, number: Number, add: impl FnOnce(&mut Story)) {
        let place = number.0.checked_sub(self.first).and_then(|place| usize::try_from(place).ok());
        let Some(story) = place.and_then(|place| self.kept.get_mut(place)) else { return };
        self.heap_bytes -= story.heap_bytes();
        add(story);
        self.heap_bytes += story.heap_bytes();
        self.make_room();
    }

    /// Those of this id that are kept, newest first, at most [`FOUND_MAX`].
    pub fn find(&self, request_id: &str) -> Vec<Story> {
        let hash = hash(request_id);
        let found =
            self.kept.iter().rev().filter(|story| story.hash == hash && *story.request_id == *request_id);
        found.take(FOUND_MAX).cloned().collect()
    }

    /// How many are kept.
    pub fn count(&self) -> usize {
        self.kept.len()
    }

    /// When the oldest of them began.
    pub fn oldest(&self) -> Option<Moment> {
        self.kept.front().map(|story| story.begun)
    }

    /// Bytes that all of it takes.
    pub fn bytes(&self) -> usize {
        self.kept.capacity() * size_of::<Story>() + self.heap_bytes
    }

    fn make_room(&mut self) {
        while self.heap_bytes > HEAP_BYTES_MAX {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some(oldest) = self.kept.pop_front() {
            self.heap_bytes -= oldest.heap_bytes();
            self.first += 1;
        }
    }
}

impl Story {
    /// A request of which nothing has been decided.
    pub fn new(request_id: &str, begun: Moment, backend: BackendId, asked: Asked) -> Self {
        let request_id = text(request_id);
        let hash = hash(&request_id);
        Self { request_id, hash, begun, backend, asked, attempts: Vec::new(), outcome: None }
    }

    /// An endpoint was to be chosen.
    pub fn considers(&mut self, at: Moment, considered: Considered) {
        // Nearly all have one attempt, and a vector that grows by itself begins with four.
        self.attempts.reserve_exact(1);
        self.attempts.push(Attempt {
            at,
            considered,
            patience: None,
            ended: None,
            waited: None,
            questions: None,
        });
    }

    /// The endpoint chosen is told how long it may take.
    pub fn waits(&mut self, patience: Patience) {
        if let Some(attempt) = self.attempts.last_mut() {
            attempt.patience = Some(patience);
        }
    }

    /// The last attempt has ended, after it had waited there for so long, if it had.
    pub fn attempt_ends(&mut self, at: Moment, ended: Ended, waited: Option<Duration>) {
        if let Some(attempt) = self.attempts.last_mut() {
            attempt.ended = Some((at, ended));
            attempt.waited = waited;
        }
    }

    /// Before it was placed once more, others were asked.
    pub fn asks(&mut self, questions: Questions) {
        if let Some(attempt) = self.attempts.last_mut() {
            attempt.questions = Some(questions);
        }
    }

    /// Its id.
    pub fn request_id(&self) -> &str {
        &self.request_id
    }

    fn heap_bytes(&self) -> usize {
        let names = self.backend.0.namespace.len() + self.backend.0.name.len();
        let attempts = self.attempts.capacity() * size_of::<Attempt>();
        let behind: usize = self.attempts.iter().map(Attempt::heap_bytes).sum();
        let message = self.outcome.as_ref().map_or(0, |outcome| outcome.message.len());
        self.request_id.len() + names + attempts + behind + message
    }
}

impl Attempt {
    fn heap_bytes(&self) -> usize {
        let ended = match &self.ended {
            Some((_, Ended::Refused { load: Some(_), .. })) => size_of::<Report>(),
            Some((_, Ended::Failed { message, .. })) => message.len(),
            _ => 0,
        };
        self.considered.rows.len() * size_of::<Row>() + ended
    }
}

/// So much of a text as is kept.
pub fn text(whole: &str) -> Box<str> {
    whole[..whole.floor_char_boundary(TEXT_BYTES_MAX)].into()
}

/// Finds an id among many without reading them all.
fn hash(request_id: &str) -> u64 {
    let mut hasher = SipHasher13::new();
    request_id.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests;
