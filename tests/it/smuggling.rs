//! What is passed on can be read in one way: by nginx, HAProxy, Envoy and ourselves as the next hop, for every raw request of the corpus.

use std::collections::BTreeMap;

use penstock_tests::documents::{self, Endpoint, backend};
use penstock_tests::mesh::Mesh;
use penstock_tests::messages::{Case, Message, Recorded, Recorder, Verdict, corpus};
use penstock_tests::peers::{Kind, Peer};
use penstock_tests::sidecar::Sidecar;
use penstock_tests::wait::within;
use serde_json::json;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

/// Sent after a case, so that a reader who has found another end of it shows that, and closes.
const LAST: &[u8] = b"GET /last HTTP/1.1\r\nHost: app\r\nConnection: close\r\n\r\n";

/// A sidecar beside a caller, in front of this application and of nothing else.
async fn plain(dir: &TempDir, recorder: &Recorder) -> Sidecar {
    let path = dir.path().join("routes.yaml");
    let endpoint = Endpoint { address: recorder.address, sidecar: None };
    std::fs::write(&path, documents::file(&[backend("app", &[endpoint])])).unwrap();
    let spec = json!({"documents": path, "outbound": {"listen": "127.0.0.1:0"}});
    let sidecar = Sidecar::start(dir.path(), "web", spec).await;
    sidecar.ready().await;
    sidecar
}

/// Statuses of the answers in `bytes`, without 1xx.
fn statuses(bytes: &[u8]) -> Vec<u16> {
    let (mut statuses, mut rest) = (Vec::new(), bytes);
    while let Some(end) = rest.windows(4).position(|window| window == b"\r\n\r\n") {
        let head = String::from_utf8_lossy(&rest[..end]).to_ascii_lowercase();
        let status: u16 = head.get(9..12).and_then(|text| text.parse().ok()).unwrap_or(0);
        let length = head.split("content-length: ").nth(1).and_then(|text| text.lines().next()?.parse().ok());
        let length: usize = if status < 200 { 0 } else { length.unwrap_or(0) };
        if status >= 200 {
            statuses.push(status);
        }
        rest = rest.get(end + 4 + length..).unwrap_or_default();
    }
    statuses
}

/// Sends bytes and reads until there are so many answers, then says that nothing more comes and reads to the end.
async fn exchange(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    bytes: &[u8],
    answers: usize,
) -> Vec<u8> {
    let mut read = Vec::new();
    let (mut reader, mut writer) = tokio::io::split(stream);
    let write = async {
        // Whoever refuses may close before everything is written.
        drop(writer.write_all(bytes).await);
        writer
    };
    let until_answered = async {
        while statuses(&read).len() < answers {
            if !matches!(reader.read_buf(&mut read).await, Ok(1..)) {
                break;
            }
        }
    };
    let (mut writer, ()) = tokio::join!(write, until_answered);
    drop(writer.shutdown().await);
    // A reset is an end too.
    drop(reader.read_to_end(&mut read).await);
    read
}

/// Sends one case to a listener of ours and holds what it does against the verdict; gives what the application was sent.
async fn passed_on(sidecar: &Sidecar, recorder: &Recorder, case: &Case) -> Result<Vec<Recorded>, String> {
    let refused = case.verdict.iter().filter_map(|verdict| match verdict {
        Verdict::Refused(status) => Some(*status),
        Verdict::Passed | Verdict::Waits => None,
    });
    let passed = case.verdict.iter().filter(|verdict| **verdict == Verdict::Passed).count();
    let expected: Vec<u16> = std::iter::repeat_n(200, passed).chain(refused).collect();
    let mut stream = TcpStream::connect(sidecar.outbound()).await.map_err(|error| error.to_string())?;
    let answer = within(&case.name, exchange(&mut stream, &case.bytes, expected.len())).await;
    let recorded = recorder.take().await;
    let whole: usize = recorded.iter().map(|recorded| recorded.messages.len()).sum();
    let left = recorded.iter().any(|recorded| recorded.left > 0 && !recorded.messages.is_empty());
    let text = String::from_utf8_lossy(&answer);
    if statuses(&answer) != expected || whole != passed || left {
        return Err(format!("{}: wanted {expected:?}, {whole} passed on, {left}: {text:.300}", case.name));
    }
    let told = text.contains("x-penstock-error: bad_request") || !expected.contains(&400);
    let ours = recorded.iter().flat_map(|recorded| &recorded.messages).find_map(between_hops);
    match ours {
        Some(field) => Err(format!("{}: `{field}` was passed on", case.name)),
        None if !told => Err(format!("{}: refused by somebody else: {text:.300}", case.name)),
        None => Ok(recorded),
    }
}

/// A field that must not have been passed on.
fn between_hops(message: &Message) -> Option<&str> {
    let is_between = |name: &str| {
        name.replace('_', "-").starts_with("x-penstock-")
            || ["connection", "keep-alive", "proxy-connection", "upgrade", "http2-settings"].contains(&name)
            || ["proxy-authorization", "x-secret", "x-gateway-model-name"].contains(&name)
    };
    let te = |(name, value): &&(String, String)| name == "te" && value != "trailers";
    let found = message.fields.iter().find(|field| is_between(&field.0) || te(field));
    found.map(|(name, _)| name.as_str())
}

/// Every case, with what was passed on of it.
async fn all_passed_on(sidecar: &Sidecar, recorder: &Recorder) -> Vec<(Case, Vec<Recorded>)> {
    let (mut all, mut wrong) = (Vec::new(), Vec::new());
    for case in corpus() {
        match passed_on(sidecar, recorder, &case).await {
            Ok(recorded) => all.push((case, recorded)),
            Err(why) => wrong.push(why),
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), all.len() + wrong.len(), wrong.join("\n"));
    all
}

/// What a next hop reads: messages, of which the last is [`LAST`] if it found the same end as the sender.
#[derive(Debug, PartialEq, Eq)]
enum Reading {
    Refused,
    Same,
    Different(Vec<String>),
}

/// What a reader made of bytes in which we read `expected`.
fn reading(expected: &[&Message], recorded: &[Recorded], answers: &[u16]) -> Reading {
    let read: Vec<&Message> = recorded.iter().flat_map(|recorded| &recorded.messages).collect();
    let is_same = |read: &[&Message]| {
        read.len() == expected.len() && read.iter().zip(expected).all(|(one, other)| one.says_the_same(other))
    };
    match read.split_last() {
        Some((last, before)) if last.target == "/last" && is_same(before) => Reading::Same,
        // Answered by itself, and the end of it was where it is.
        Some((last, []))
            if last.target == "/last" && answers.first().is_some_and(|status| *status >= 400) =>
        {
            Reading::Refused
        }
        // Refused at some point, and what came before was the same.
        _ if read.len() <= expected.len()
            && read.iter().zip(expected).all(|(one, other)| one.says_the_same(other)) =>
        {
            Reading::Refused
        }
        _ => Reading::Different(
            read.iter()
                .map(|message| format!("{} {} {}", message.method, message.target, message.host))
                .collect(),
        ),
    }
}

#[tokio::test]
async fn every_raw_request_is_passed_on_or_refused_as_the_corpus_says() {
    let cases = corpus();
    assert!(cases.len() >= 300, "{}", cases.len());
    let dir = tempfile::tempdir().unwrap();
    let recorder = Recorder::start().await;
    let sidecar = plain(&dir, &recorder).await;
    let all = all_passed_on(&sidecar, &recorder).await;
    let refused = cases.iter().filter(|case| case.verdict.contains(&Verdict::Refused(400)));
    let counted =
        sidecar.metrics().await.sum("penstock_requests_refused_total", &[("direction", "outbound")]);
    assert_eq!(counted, refused.count() as f64, "each is counted once");
    sidecar.idle().await;
    println!("{} raw requests, {counted} refused", all.len());
}

#[tokio::test]
async fn what_is_passed_on_is_read_alike_by_every_next_hop() {
    let dir = tempfile::tempdir().unwrap();
    let recorder = Recorder::start().await;
    let sidecar = plain(&dir, &recorder).await;
    let all = all_passed_on(&sidecar, &recorder).await;
    let mut different = Vec::new();
    for kind in Kind::ALL {
        let behind = Recorder::start().await;
        let Some(peer) = Peer::start(kind, dir.path(), behind.address).await else { continue };
        let mut refused = BTreeMap::new();
        for (case, recorded) in &all {
            for recorded in recorded.iter().filter(|recorded| !recorded.messages.is_empty()) {
                let expected: Vec<&Message> = recorded.messages.iter().collect();
                let mut stream = peer.connect().await;
                let bytes = [&recorded.bytes, LAST].concat();
                let answer = within(&case.name, exchange(&mut stream, &bytes, expected.len() + 1)).await;
                let answers = statuses(&answer);
                match reading(&expected, &behind.take().await, &answers) {
                    Reading::Same => {}
                    Reading::Refused => drop(refused.insert(&case.name, answers)),
                    Reading::Different(read) => different.push(format!("{kind}: {}: {read:?}", case.name)),
                }
            }
        }
        println!("{kind} refuses what we pass on of: {refused:?}");
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
}

#[tokio::test]
async fn two_hops_pass_on_what_one_does() {
    let dir = tempfile::tempdir().unwrap();
    let (near, far) = (Recorder::start().await, Recorder::start().await);
    let alone = plain(&dir, &near).await;
    let mesh = Mesh::start().await;
    let inbound = mesh.inbound("app", far.address).await;
    let web = mesh.caller("web").await;
    let endpoint = Endpoint { address: far.address, sidecar: Some(inbound.inbound()) };
    mesh.publish(&[backend("app", &[endpoint])], &[&inbound, &web]).await;
    let (one, two) = (all_passed_on(&alone, &near).await, all_passed_on(&web, &far).await);
    for ((case, one), (_, two)) in one.iter().zip(&two) {
        let messages = |recorded: &[Recorded]| -> Vec<Message> {
            recorded.iter().flat_map(|recorded| recorded.messages.clone()).collect()
        };
        let (one, two) = (messages(one), messages(two));
        let same = one.len() == two.len() && one.iter().zip(&two).all(|(one, two)| one.says_the_same(two));
        assert!(same, "{}: {one:?} and {two:?}", case.name);
    }
}

/// Raw requests that are let in and still passed on otherwise by a peer. HAProxy sends the absolute form on as it came; the authority
/// in it is the one of `host`.
const READ_OTHERWISE: [(Kind, &str); 4] = [
    (Kind::HaProxy, "absolute 0"),
    (Kind::HaProxy, "absolute 1"),
    (Kind::HaProxy, "absolute 3"),
    (Kind::HaProxy, "absolute 4"),
];

#[tokio::test]
async fn what_we_let_in_no_hop_before_us_reads_otherwise() {
    let dir = tempfile::tempdir().unwrap();
    let recorder = Recorder::start().await;
    let sidecar = plain(&dir, &recorder).await;
    let all = all_passed_on(&sidecar, &recorder).await;
    let mut otherwise = Vec::new();
    for kind in Kind::ALL {
        let behind = Recorder::start().await;
        let Some(peer) = Peer::start(kind, dir.path(), behind.address).await else { continue };
        let is_let_in = |case: &Case| case.verdict.iter().all(|verdict| *verdict == Verdict::Passed);
        for (case, recorded) in all.iter().filter(|(case, _)| is_let_in(case)) {
            let expected: Vec<&Message> = recorded.iter().flat_map(|recorded| &recorded.messages).collect();
            let mut stream = peer.connect().await;
            let bytes = [&case.bytes, LAST].concat();
            let answer = within(&case.name, exchange(&mut stream, &bytes, expected.len() + 1)).await;
            let reading = reading(&expected, &behind.take().await, &statuses(&answer));
            let is_known = READ_OTHERWISE.iter().any(|(peer, name)| *peer == kind && *name == case.name);
            if matches!(reading, Reading::Different(_)) != is_known {
                otherwise.push(format!("{kind}: {}: {reading:?}, in the table: {is_known}", case.name));
            }
        }
    }
    assert!(otherwise.is_empty(), "{}", otherwise.join("\n"));
}
