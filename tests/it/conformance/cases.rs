//! The table. Names begin with the section of h2spec, or with `own`.

use super::{Case, OK, Outcome, Side, case, data, field, ping, settings, whole};
use penstock_tests::frames::{code, flag, frame, kind, setting};

const PONGED: &[Outcome] = &[Outcome::Ponged];
const ANSWERED: &[Outcome] = &[OK];
const REFUSED: &[Outcome] = &[Outcome::Answered(400)];

/// The connection ends for this reason.
const PROTOCOL: &[Outcome] = &[Outcome::Ended(code::PROTOCOL)];
const FLOW: &[Outcome] = &[Outcome::Ended(code::FLOW_CONTROL)];
const SIZE: &[Outcome] = &[Outcome::Ended(code::FRAME_SIZE)];
const COMPRESSION: &[Outcome] = &[Outcome::Ended(code::COMPRESSION)];
const CLOSED: &[Outcome] = &[Outcome::Ended(code::STREAM_CLOSED)];
/// The stream ends for this reason. The connection may, too (RFC 9113 section 5.4).
const STREAM_PROTOCOL: &[Outcome] = &[Outcome::Reset(code::PROTOCOL), Outcome::Ended(code::PROTOCOL)];
const STREAM_FLOW: &[Outcome] = &[Outcome::Reset(code::FLOW_CONTROL), Outcome::Ended(code::FLOW_CONTROL)];
const STREAM_SIZE: &[Outcome] = &[Outcome::Reset(code::FRAME_SIZE), Outcome::Ended(code::FRAME_SIZE)];
const STREAM_CLOSED: &[Outcome] = &[Outcome::Reset(code::STREAM_CLOSED), Outcome::Ended(code::STREAM_CLOSED)];
/// Either the frame or the state of the stream is named.
const CLOSED_OR_PROTOCOL: &[Outcome] = &[Outcome::Ended(code::STREAM_CLOSED), Outcome::Ended(code::PROTOCOL)];

/// Cases whose connection ends as it should, for another reason than the standard's. The HTTP/2 library (h2 0.4) knows one for all of
/// them.
const OTHER_REASON: [&str; 22] = [
    "http2 4.3/1:",
    "http2 5.1/5:",
    "http2 5.1/6:",
    "http2 5.1/9:",
    "http2 5.1/12:",
    "http2 6.1/2:",
    "http2 6.3/2:",
    "http2 6.4/3:",
    "http2 6.5/1:",
    "http2 6.5/3:",
    "http2 6.5.2/2:",
    "http2 6.7/4:",
    "http2 6.9/3:",
    "http2 6.9.2/3:",
    "hpack 2.3.3/",
    "hpack 4.2/1:",
    "hpack 5.2/",
    "hpack 6.1/1:",
    "hpack 6.3/1:",
    "own: GOAWAY of 7 bytes",
    "own: an integer that overflows",
    "own: a literal that is cut off",
];

/// All of them.
pub(super) fn all() -> Vec<Case> {
    let parts = [
        generic(),
        hpack_good(),
        frames(),
        states(),
        limits(),
        control(),
        continuations(),
        messages(),
        fields(),
        hpack(),
    ];
    let named = |case: Case| {
        if OTHER_REASON.iter().any(|start| case.name.starts_with(start)) {
            return case
                .but(Outcome::Ended(code::PROTOCOL), "the library says PROTOCOL_ERROR for every rule");
        }
        case
    };
    parts.into_iter().flatten().map(named).collect()
}

fn priority(stream: u32, depends: u32, weight: u8) -> Vec<u8> {
    frame(kind::PRIORITY, flag::NONE, stream, &[&depends.to_be_bytes()[..], &[weight]].concat())
}

fn reset(stream: u32, code: u32) -> Vec<u8> {
    frame(kind::RST_STREAM, flag::NONE, stream, &code.to_be_bytes())
}

fn window(stream: u32, more: u32) -> Vec<u8> {
    frame(kind::WINDOW_UPDATE, flag::NONE, stream, &more.to_be_bytes())
}

fn continuation(flags: u8, stream: u32, block: &[u8]) -> Vec<u8> {
    frame(kind::CONTINUATION, flags, stream, block)
}

/// The head of a GET that goes on in CONTINUATION.
fn begun(side: &Side) -> Vec<u8> {
    frame(kind::HEADERS, flag::END_STREAM, 1, &side.request("GET", "/"))
}

fn held(side: &Side) -> Vec<u8> {
    side.get(1, "/hold")
}

/// Padding around a payload.
fn padded(length: u8, payload: &[u8]) -> Vec<u8> {
    [&[length], payload, &vec![0; usize::from(length)]].concat()
}

/// What an ordinary client does.
fn generic() -> Vec<Case> {
    vec![
        case(
            "generic 2/1: PRIORITY on an idle stream",
            |s| [priority(1, 0, 255), s.get(1, "/")].concat(),
            ANSWERED,
        ),
        case(
            "generic 2/2: WINDOW_UPDATE on a half-closed stream",
            |s| [held(s), window(1, 100), ping()].concat(),
            PONGED,
        ),
        case(
            "generic 2/3: PRIORITY on a half-closed stream",
            |s| [held(s), priority(1, 0, 255), ping()].concat(),
            PONGED,
        ),
        case(
            "generic 2/4: RST_STREAM on a half-closed stream",
            |s| [held(s), reset(1, 8), ping()].concat(),
            PONGED,
        ),
        case("generic 2/5: PRIORITY on a closed stream", |_| [priority(1, 0, 255), ping()].concat(), PONGED)
            .after(|s| s.get(1, "/"), OK),
        case(
            "generic 3.1/1: DATA",
            |s| [s.post(1, "/"), data(flag::END_STREAM, 1, b"test")].concat(),
            ANSWERED,
        ),
        case(
            "generic 3.1/2: DATA in several frames",
            |s| [s.post(1, "/"), data(0, 1, b"test"), data(flag::END_STREAM, 1, b"test")].concat(),
            ANSWERED,
        ),
        case(
            "generic 3.1/3: DATA with padding",
            |s| [s.post(1, "/"), data(flag::END_STREAM | flag::PADDED, 1, &padded(6, b"test"))].concat(),
            ANSWERED,
        ),
        case("generic 3.2/1: HEADERS", |s| s.get(1, "/"), ANSWERED),
        case(
            "generic 3.2/2: HEADERS with padding",
            |s| {
                let flags = flag::END_STREAM | flag::END_HEADERS | flag::PADDED;
                frame(kind::HEADERS, flags, 1, &padded(6, &s.request("GET", "/")))
            },
            ANSWERED,
        ),
        case(
            "generic 3.2/3: HEADERS with priority",
            |s| {
                let flags = flag::END_STREAM | flag::END_HEADERS | flag::PRIORITY;
                frame(kind::HEADERS, flags, 1, &[&[0, 0, 0, 0, 255], &s.request("GET", "/")[..]].concat())
            },
            ANSWERED,
        ),
        case(
            "generic 3.3/1: PRIORITY of weight 1",
            |s| [priority(1, 0, 0), s.get(1, "/")].concat(),
            ANSWERED,
        ),
        case(
            "generic 3.3/2: PRIORITY of weight 256",
            |s| [priority(1, 0, 255), s.get(1, "/")].concat(),
            ANSWERED,
        ),
        case(
            "generic 3.3/3: PRIORITY with a dependency",
            |s| [priority(3, 1, 9), s.get(1, "/")].concat(),
            ANSWERED,
        ),
        case(
            "generic 3.3/4: PRIORITY, exclusive",
            |s| [priority(3, 0x8000_0001, 9), s.get(1, "/")].concat(),
            ANSWERED,
        ),
        case(
            "generic 3.3/5: PRIORITY on a higher idle stream",
            |s| [priority(5, 0, 9), s.get(1, "/")].concat(),
            ANSWERED,
        ),
        case("generic 3.4/1: RST_STREAM", |s| [s.post(1, "/"), reset(1, 8), ping()].concat(), PONGED),
        case("generic 3.5/1: SETTINGS", |_| settings(&[]), &[Outcome::Acknowledged]),
        case("generic 3.7/1: PING", |_| ping(), PONGED),
        case(
            "generic 3.8/1: GOAWAY",
            |s| [s.get(1, "/"), frame(kind::GOAWAY, 0, 0, &[0; 8])].concat(),
            ANSWERED,
        )
        .leaving(),
        case("generic 3.9/1: WINDOW_UPDATE of the connection", |_| [window(0, 1), ping()].concat(), PONGED),
        case(
            "generic 3.9/2: WINDOW_UPDATE of a stream",
            |s| [held(s), window(1, 1), ping()].concat(),
            PONGED,
        ),
        case(
            "generic 3.10/1: CONTINUATION",
            |s| [begun(s), continuation(flag::END_HEADERS, 1, &field(b"a", b"b"))].concat(),
            ANSWERED,
        ),
        case(
            "generic 3.10/2: CONTINUATION, several",
            |s| {
                [
                    begun(s),
                    continuation(0, 1, &field(b"a", b"b")),
                    continuation(flag::END_HEADERS, 1, &field(b"c", b"d")),
                ]
                .concat()
            },
            ANSWERED,
        ),
        case("generic 4/1: GET", |s| s.get(1, "/"), ANSWERED),
        case("generic 4/2: HEAD", |s| whole(1, &s.request("HEAD", "/")), ANSWERED),
        case("generic 4/3: POST", |s| [s.post(1, "/"), data(flag::END_STREAM, 1, b"a=b")].concat(), ANSWERED),
        case(
            "generic 4/4: POST with trailers",
            |s| {
                [
                    s.post_with(1, "/", &field(b"trailer", b"x-test")),
                    data(0, 1, b"a=b"),
                    whole(1, &field(b"x-test", b"ok")),
                ]
                .concat()
            },
            ANSWERED,
        ),
    ]
}

/// Each representation of RFC 7541 section 6, behind the usual fields.
fn hpack_good() -> Vec<Case> {
    const NAME: &[u8] = b"\x0acustom-key";
    const VALUE: &[u8] = b"\x0ccustom-value";
    const NAME_CODED: &[u8] = b"\x88\x25\xa8\x49\xe9\x5b\xa9\x7d\x7f";
    const VALUE_CODED: &[u8] = b"\x89\x25\xa8\x49\xe9\x5b\xb8\xe8\xb4\xbf";
    vec![
        case("generic 5/1: an indexed field", |s| s.get_with(1, "/", b"\x90"), ANSWERED),
        case(
            "generic 5/2: literal, indexed, known name",
            |s| s.get_with(1, "/", &[b"\x7a", VALUE].concat()),
            ANSWERED,
        ),
        case(
            "generic 5/3: the same, coded",
            |s| s.get_with(1, "/", &[b"\x7a", VALUE_CODED].concat()),
            ANSWERED,
        ),
        case(
            "generic 5/4: literal, indexed, new name",
            |s| s.get_with(1, "/", &[b"\x40", NAME, VALUE].concat()),
            ANSWERED,
        ),
        case(
            "generic 5/5: the same, coded",
            |s| s.get_with(1, "/", &[b"\x40", NAME_CODED, VALUE_CODED].concat()),
            ANSWERED,
        ),
        case(
            "generic 5/6: literal, not indexed, known name",
            |s| s.get_with(1, "/", &[b"\x0f\x2b", VALUE].concat()),
            ANSWERED,
        ),
        case(
            "generic 5/7: the same, coded",
            |s| s.get_with(1, "/", &[b"\x0f\x2b", VALUE_CODED].concat()),
            ANSWERED,
        ),
        case(
            "generic 5/8: literal, not indexed, new name",
            |s| s.get_with(1, "/", &[b"\x00", NAME, VALUE].concat()),
            ANSWERED,
        ),
        case(
            "generic 5/9: the same, coded",
            |s| s.get_with(1, "/", &[b"\x00", NAME_CODED, VALUE_CODED].concat()),
            ANSWERED,
        ),
        case(
            "generic 5/10: literal, never indexed, known name",
            |s| s.get_with(1, "/", &[b"\x1f\x2b", VALUE].concat()),
            ANSWERED,
        ),
        case(
            "generic 5/11: the same, coded",
            |s| s.get_with(1, "/", &[b"\x1f\x2b", VALUE_CODED].concat()),
            ANSWERED,
        ),
        case(
            "generic 5/12: literal, never indexed, new name",
            |s| s.get_with(1, "/", &[b"\x10", NAME, VALUE].concat()),
            ANSWERED,
        ),
        case(
            "generic 5/13: the same, coded",
            |s| s.get_with(1, "/", &[b"\x10", NAME_CODED, VALUE_CODED].concat()),
            ANSWERED,
        ),
        case(
            "generic 5/14: the dynamic table's size changes",
            |s| whole(1, &[b"\x20", &s.request("GET", "/")[..]].concat()),
            ANSWERED,
        ),
        case(
            "generic 5/15: it changes twice",
            |s| whole(1, &[b"\x20\x3f\xe1\x1f", &s.request("GET", "/")[..]].concat()),
            ANSWERED,
        ),
        case(
            "own: a field of the dynamic table",
            |s| {
                [
                    whole(1, &[&s.request("GET", "/hold")[..], b"\x40", NAME, VALUE].concat()),
                    s.get_with(3, "/", b"\xbe"),
                ]
                .concat()
            },
            ANSWERED,
        )
        .on(3),
    ]
}

/// Sections 3 and 4: the form of frames.
fn frames() -> Vec<Case> {
    vec![
        case(
            "http2 4.1/1: a frame of unknown type",
            |_| [frame(0x16, 0, 0, &[0; 8]), ping()].concat(),
            PONGED,
        ),
        case("http2 4.1/2: a flag that is not defined", |_| frame(kind::PING, 0x16, 0, b"the end."), PONGED),
        case("http2 4.1/3: the reserved bit", |_| frame(kind::PING, 0, 0x8000_0000, b"the end."), PONGED),
        case(
            "http2 4.2/1: DATA of 16,384 bytes",
            |s| [s.post(1, "/"), data(flag::END_STREAM, 1, &[0; 16_384])].concat(),
            ANSWERED,
        ),
        case(
            "http2 4.2/2: DATA larger than is taken",
            |s| [s.post(1, "/"), data(0, 1, &[0; 16_385])].concat(),
            STREAM_SIZE,
        ),
        case(
            "http2 4.2/3: HEADERS larger than is taken",
            |s| {
                frame(
                    kind::HEADERS,
                    flag::END_HEADERS,
                    1,
                    &[&s.request("POST", "/")[..], &[0x90; 16_384]].concat(),
                )
            },
            SIZE,
        ),
        case(
            "http2 4.3/1: a header block that cannot be decoded",
            |_| frame(kind::HEADERS, flag::END_HEADERS, 1, b"\xff\xff\xff\xff\xff"),
            COMPRESSION,
        ),
        case(
            "http2 4.3/2: PRIORITY in the middle of a header block",
            |s| [begun(s), priority(1, 0, 255), continuation(flag::END_HEADERS, 1, &[])].concat(),
            PROTOCOL,
        ),
        case(
            "http2 4.3/3: HEADERS of another stream in the middle of a header block",
            |s| [begun(s), s.get(3, "/")].concat(),
            PROTOCOL,
        ),
        case("http2 5.5/1: an extension", |_| [frame(0x16, 0, 0, b"extra"), ping()].concat(), PONGED),
        case(
            "http2 5.5/2: an extension in the middle of a header block",
            |s| [begun(s), frame(0x16, 0, 0, b"extra")].concat(),
            PROTOCOL,
        ),
        case("own: PING in the middle of a header block", |s| [begun(s), ping()].concat(), PROTOCOL),
    ]
}

/// Section 5: what a stream may be sent.
fn states() -> Vec<Case> {
    vec![
        case("http2 5.1/1: DATA on an idle stream", |_| data(flag::END_STREAM, 1, b"test"), PROTOCOL),
        case("http2 5.1/2: RST_STREAM on an idle stream", |_| reset(1, 8), PROTOCOL),
        case("http2 5.1/3: WINDOW_UPDATE on an idle stream", |_| window(1, 100), PROTOCOL),
        case(
            "http2 5.1/4: CONTINUATION on an idle stream",
            |_| continuation(flag::END_HEADERS, 1, &[]),
            PROTOCOL,
        ),
        case(
            "http2 5.1/5: DATA on a half-closed stream",
            |s| [held(s), data(flag::END_STREAM, 1, b"test")].concat(),
            STREAM_CLOSED,
        ),
        case("http2 5.1/6: HEADERS on a half-closed stream", |s| [held(s), held(s)].concat(), STREAM_CLOSED),
        case(
            "http2 5.1/7: CONTINUATION on a half-closed stream",
            |s| [held(s), continuation(flag::END_HEADERS, 1, &[])].concat(),
            CLOSED_OR_PROTOCOL,
        ),
        case(
            "http2 5.1/8: DATA after RST_STREAM",
            |s| [s.post(1, "/hold"), reset(1, 8), data(flag::END_STREAM, 1, b"test")].concat(),
            STREAM_CLOSED,
        ),
        case(
            "http2 5.1/9: HEADERS after RST_STREAM",
            |s| [s.post(1, "/hold"), reset(1, 8), held(s)].concat(),
            STREAM_CLOSED,
        ),
        case(
            "http2 5.1/10: CONTINUATION after RST_STREAM",
            |s| [s.post(1, "/hold"), reset(1, 8), continuation(flag::END_HEADERS, 1, &[])].concat(),
            CLOSED_OR_PROTOCOL,
        ),
        case("http2 5.1/11: DATA on a closed stream", |_| data(flag::END_STREAM, 1, b"test"), STREAM_CLOSED)
            .after(|s| s.get(1, "/"), OK),
        case("http2 5.1/12: HEADERS on a closed stream", |s| s.get(1, "/"), CLOSED)
            .after(|s| s.get(1, "/"), OK),
        case(
            "http2 5.1/13: CONTINUATION on a closed stream",
            |_| continuation(flag::END_HEADERS, 1, &[]),
            CLOSED_OR_PROTOCOL,
        )
        .after(|s| s.get(1, "/"), OK),
        case("http2 5.1.1/1: an even stream", |s| s.get(2, "/"), PROTOCOL),
        case(
            "http2 5.1.1/2: a stream below an earlier one",
            |s| [s.get(5, "/hold"), s.get(3, "/")].concat(),
            PROTOCOL,
        ),
        case(
            "http2 5.3.1/1: HEADERS that depend on themselves",
            |s| {
                let flags = flag::END_STREAM | flag::END_HEADERS | flag::PRIORITY;
                frame(kind::HEADERS, flags, 1, &[&[0, 0, 0, 1, 255], &s.request("GET", "/")[..]].concat())
            },
            STREAM_PROTOCOL,
        ),
        case(
            "http2 5.3.1/2: PRIORITY that depends on itself",
            |s| [held(s), priority(1, 1, 255)].concat(),
            STREAM_PROTOCOL,
        ),
        case("http2 5.4.1/1: GOAWAY before the end", |_| frame(kind::PING, 0, 3, &[0; 8]), PROTOCOL),
    ]
}

/// Sections 6.1, 6.2, 6.5.2, 6.9: padding, settings and windows.
fn limits() -> Vec<Case> {
    vec![
        case("http2 6.1/1: DATA on stream 0", |_| data(flag::END_STREAM, 0, b"test"), PROTOCOL),
        case(
            "http2 6.1/2: DATA on a stream that is not open",
            |s| [held(s), data(flag::END_STREAM, 1, b"test")].concat(),
            STREAM_CLOSED,
        ),
        case(
            "http2 6.1/3: DATA with more padding than there is",
            |s| [s.post(1, "/"), data(flag::END_STREAM | flag::PADDED, 1, b"\x06test")].concat(),
            PROTOCOL,
        ),
        case(
            "http2 6.2/1: PRIORITY between HEADERS and CONTINUATION",
            |s| [begun(s), priority(1, 0, 255)].concat(),
            PROTOCOL,
        ),
        case(
            "http2 6.2/2: HEADERS of another stream between HEADERS and CONTINUATION",
            |s| [begun(s), s.get(3, "/")].concat(),
            PROTOCOL,
        ),
        case("http2 6.2/3: HEADERS on stream 0", |s| s.get(0, "/"), PROTOCOL),
        case(
            "http2 6.2/4: HEADERS with more padding than there is",
            |s| {
                let block = s.request("GET", "/");
                let flags = flag::END_STREAM | flag::END_HEADERS | flag::PADDED;
                frame(kind::HEADERS, flags, 1, &[&[u8::MAX], &block[..30]].concat())
            },
            PROTOCOL,
        ),
        case("http2 6.5.2/1: ENABLE_PUSH of 2", |_| settings(&[(2, 2)]), PROTOCOL),
        case("http2 6.5.2/2: INITIAL_WINDOW_SIZE above the largest", |_| settings(&[(4, 1 << 31)]), FLOW),
        case("http2 6.5.2/3: MAX_FRAME_SIZE below the least", |_| settings(&[(5, 16_383)]), PROTOCOL),
        case("http2 6.5.2/4: MAX_FRAME_SIZE above the largest", |_| settings(&[(5, 1 << 24)]), PROTOCOL),
        case(
            "http2 6.5.2/5: a setting that is not known",
            |_| [settings(&[(0xff, 1)]), ping()].concat(),
            PONGED,
        ),
        case(
            "http2 6.5.3/1: INITIAL_WINDOW_SIZE twice",
            |s| [settings(&[(4, 100), (4, 1)]), s.get(1, "/")].concat(),
            &[Outcome::Body(1)],
        ),
        case("http2 6.5.3/2: SETTINGS are acknowledged", |_| settings(&[(3, 100)]), &[Outcome::Acknowledged]),
        case("http2 6.9/1: WINDOW_UPDATE of 0", |_| window(0, 0), PROTOCOL),
        case(
            "http2 6.9/2: WINDOW_UPDATE of 0 on a stream",
            |s| [held(s), window(1, 0)].concat(),
            STREAM_PROTOCOL,
        ),
        case("http2 6.9/3: WINDOW_UPDATE of 3 bytes", |_| frame(kind::WINDOW_UPDATE, 0, 0, &[0, 0, 1]), SIZE),
        case(
            "http2 6.9.1/1: no more than the window",
            |s| [settings(&[(4, 1)]), s.get(1, "/")].concat(),
            &[Outcome::Body(1)],
        ),
        case(
            "http2 6.9.1/2: a window of the connection above the largest",
            |_| [window(0, i32::MAX as u32), window(0, i32::MAX as u32)].concat(),
            FLOW,
        ),
        case(
            "http2 6.9.1/3: a window of a stream above the largest",
            |s| [s.post(1, "/hold"), window(1, i32::MAX as u32), window(1, i32::MAX as u32)].concat(),
            STREAM_FLOW,
        ),
        case(
            "http2 6.9.2/1: the window of an open stream grows",
            |_| settings(&[(4, 2)]),
            &[Outcome::Body(1)],
        )
        .after(|s| [settings(&[(4, 1)]), s.get(1, "/")].concat(), Outcome::Body(1)),
        case(
            "http2 6.9.2/2: a window below 0",
            |_| [settings(&[(4, 2)]), window(1, 2)].concat(),
            &[Outcome::Body(1)],
        )
        .after(|s| [settings(&[(4, 3)]), s.get(1, "/")].concat(), Outcome::Body(3)),
        case(
            "http2 6.9.2/3: INITIAL_WINDOW_SIZE that overflows a window",
            |_| settings(&[(4, u32::MAX)]),
            FLOW,
        ),
        case(
            "own: INITIAL_WINDOW_SIZE that overflows the window of one stream",
            |s| [s.post(1, "/hold"), window(1, i32::MAX as u32 - 65_535), settings(&[(4, 65_536)])].concat(),
            FLOW,
        ),
        case(
            "own: a body beyond our window",
            |s| {
                let chunk = data(0, 1, &[0; 16_384]);
                [s.post(1, "/hold"), chunk.repeat(80)].concat()
            },
            STREAM_FLOW,
        ),
    ]
}

/// Sections 6.3 to 6.8: frames about streams and the connection.
fn control() -> Vec<Case> {
    vec![
        case("http2 6.3/1: PRIORITY on stream 0", |_| priority(0, 1, 255), PROTOCOL),
        case(
            "http2 6.3/2: PRIORITY of 4 bytes",
            |s| [held(s), frame(kind::PRIORITY, 0, 1, &[0; 4])].concat(),
            STREAM_SIZE,
        ),
        case("http2 6.4/1: RST_STREAM on stream 0", |_| reset(0, 8), PROTOCOL),
        case("http2 6.4/2: RST_STREAM on an idle stream", |_| reset(1, 8), PROTOCOL),
        case(
            "http2 6.4/3: RST_STREAM of 3 bytes",
            |s| [held(s), frame(kind::RST_STREAM, 0, 1, &[0; 3])].concat(),
            SIZE,
        ),
        case(
            "http2 6.5/1: SETTINGS with ACK and a payload",
            |_| frame(kind::SETTINGS, flag::ACK, 0, &setting(3, 1)),
            SIZE,
        ),
        case("http2 6.5/2: SETTINGS on a stream", |_| frame(kind::SETTINGS, 0, 1, &setting(3, 1)), PROTOCOL),
        case("http2 6.5/3: SETTINGS of 3 bytes", |_| frame(kind::SETTINGS, 0, 0, &[0, 3, 0]), SIZE),
        case("http2 6.7/1: PING", |_| ping(), PONGED),
        case(
            "http2 6.7/2: PING with ACK is not answered",
            |_| [frame(kind::PING, flag::ACK, 0, b"invented"), ping()].concat(),
            PONGED,
        ),
        case("http2 6.7/3: PING on a stream", |_| frame(kind::PING, 0, 1, &[0; 8]), PROTOCOL),
        case("http2 6.7/4: PING of 6 bytes", |_| frame(kind::PING, 0, 0, &[0; 6]), SIZE),
        case("http2 6.8/1: GOAWAY on a stream", |_| frame(kind::GOAWAY, 0, 1, &[0; 8]), PROTOCOL),
        case(
            "http2 7/1: GOAWAY for an unknown reason",
            |s| [s.get(1, "/"), frame(kind::GOAWAY, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 0xff])].concat(),
            ANSWERED,
        )
        .leaving(),
        case(
            "http2 7/2: RST_STREAM for an unknown reason",
            |s| [held(s), reset(1, 0xff), ping()].concat(),
            PONGED,
        ),
        case(
            "http2 8.2/1: PUSH_PROMISE",
            |s| {
                let promise = [&[0, 0, 0, 2], &s.request("GET", "/")[..]].concat();
                [held(s), frame(kind::PUSH_PROMISE, flag::END_HEADERS, 1, &promise)].concat()
            },
            PROTOCOL,
        ),
        case("own: GOAWAY of 7 bytes", |_| frame(kind::GOAWAY, 0, 0, &[0; 7]), SIZE),
        case("own: ENABLE_CONNECT_PROTOCOL of 2", |_| settings(&[(8, 2)]), PROTOCOL),
    ]
}

/// Section 6.10.
fn continuations() -> Vec<Case> {
    vec![
        case(
            "http2 6.10/1: CONTINUATION, several",
            |s| {
                [begun(s), continuation(0, 1, &[]), continuation(flag::END_HEADERS, 1, &field(b"a", b"b"))]
                    .concat()
            },
            ANSWERED,
        ),
        case(
            "http2 6.10/2: DATA behind CONTINUATION that is not the last",
            |s| {
                [begun(s), continuation(0, 1, &field(b"a", b"b")), data(flag::END_STREAM, 1, b"test")]
                    .concat()
            },
            PROTOCOL,
        ),
        case(
            "http2 6.10/3: CONTINUATION on stream 0",
            |s| [begun(s), continuation(flag::END_HEADERS, 0, &[])].concat(),
            PROTOCOL,
        ),
        case(
            "http2 6.10/4: CONTINUATION behind whole HEADERS",
            |s| [held(s), continuation(flag::END_HEADERS, 1, &[])].concat(),
            PROTOCOL,
        ),
        case(
            "http2 6.10/5: CONTINUATION behind the last one",
            |s| {
                let last = continuation(flag::END_HEADERS, 1, &[]);
                [frame(kind::HEADERS, flag::END_STREAM, 1, &s.request("GET", "/hold")), last.clone(), last]
                    .concat()
            },
            PROTOCOL,
        ),
        case(
            "http2 6.10/6: CONTINUATION behind DATA",
            |s| [s.post(1, "/hold"), data(0, 1, b"test"), continuation(flag::END_HEADERS, 1, &[])].concat(),
            PROTOCOL,
        ),
        case(
            "own: CONTINUATION of another stream",
            |s| [begun(s), continuation(flag::END_HEADERS, 3, &[])].concat(),
            PROTOCOL,
        ),
        case(
            "own: a flood of empty CONTINUATION",
            |s| [begun(s), continuation(0, 1, &[]).repeat(10_000)].concat(),
            &[Outcome::Ended(code::CALM), Outcome::Ended(code::PROTOCOL)],
        ),
    ]
}

/// Section 8.1 to 8.3 and 8.5: messages.
fn messages() -> Vec<Case> {
    vec![
        case(
            "http2 8.1/1: a second HEADERS that does not end the stream",
            |s| {
                [s.post(1, "/hold"), frame(kind::HEADERS, flag::END_HEADERS, 1, &field(b"x-test", b"ok"))]
                    .concat()
            },
            STREAM_PROTOCOL,
        ),
        case(
            "http2 8.1.2/1: an upper-case name",
            |s| s.get_with(1, "/", &field(b"X-TEST", b"ok")),
            STREAM_PROTOCOL,
        ),
        case(
            "http2 8.1.2.1/1: an unknown pseudo-header field",
            |s| {
                whole(
                    1,
                    &s.block(&[
                        (":test", "ok"),
                        (":method", "GET"),
                        (":scheme", s.scheme),
                        (":path", "/"),
                        (":authority", "app"),
                    ]),
                )
            },
            STREAM_PROTOCOL,
        ),
        case(
            "http2 8.1.2.1/2: one of answers",
            |s| {
                whole(
                    1,
                    &s.block(&[
                        (":status", "200"),
                        (":method", "GET"),
                        (":scheme", s.scheme),
                        (":path", "/"),
                        (":authority", "app"),
                    ]),
                )
            },
            STREAM_PROTOCOL,
        ),
        case(
            "http2 8.1.2.1/3: one as a trailer",
            |s| [s.post(1, "/"), data(0, 1, b"test"), whole(1, &field(b":method", b"GET"))].concat(),
            STREAM_PROTOCOL,
        )
        .but(OK, "the library drops it; it goes nowhere"),
        case(
            "http2 8.1.2.1/4: one behind a field",
            |s| whole(1, &[field(b"x-test", b"ok"), s.request("GET", "/")].concat()),
            STREAM_PROTOCOL,
        ),
        case(
            "http2 8.1.2.2/1: a field about the connection",
            |s| s.get_with(1, "/", &field(b"connection", b"keep-alive")),
            STREAM_PROTOCOL,
        ),
        case(
            "http2 8.1.2.2/2: te of something else than trailers",
            |s| s.get_with(1, "/", &field(b"te", b"trailers, deflate")),
            STREAM_PROTOCOL,
        ),
        case("http2 8.1.2.3/1: an empty path", |s| whole(1, &s.request("GET", "")), STREAM_PROTOCOL),
        case(
            "http2 8.1.2.3/2: no method",
            |s| whole(1, &s.block(&[(":scheme", s.scheme), (":path", "/"), (":authority", "app")])),
            STREAM_PROTOCOL,
        ),
        case(
            "http2 8.1.2.3/3: no scheme",
            |s| whole(1, &s.block(&[(":method", "GET"), (":path", "/"), (":authority", "app")])),
            STREAM_PROTOCOL,
        ),
        case(
            "http2 8.1.2.3/4: no path",
            |s| whole(1, &s.block(&[(":method", "GET"), (":scheme", s.scheme), (":authority", "app")])),
            STREAM_PROTOCOL,
        ),
        case(
            "http2 8.1.2.3/5: two methods",
            |s| whole(1, &[field(b":method", b"GET"), s.request("GET", "/")].concat()),
            STREAM_PROTOCOL,
        ),
        case(
            "http2 8.1.2.3/6: two schemes",
            |s| whole(1, &[field(b":scheme", b"http"), s.request("GET", "/")].concat()),
            STREAM_PROTOCOL,
        ),
        case(
            "http2 8.1.2.3/7: two paths",
            |s| whole(1, &[field(b":path", b"/"), s.request("GET", "/")].concat()),
            STREAM_PROTOCOL,
        ),
        case(
            "http2 8.1.2.6/1: a length that differs from the body",
            |s| {
                [s.post_with(1, "/hold", &field(b"content-length", b"1")), data(flag::END_STREAM, 1, b"test")]
                    .concat()
            },
            STREAM_PROTOCOL,
        ),
        case(
            "http2 8.1.2.6/2: a length that differs from the body in parts",
            |s| {
                [
                    s.post_with(1, "/hold", &field(b"content-length", b"1")),
                    data(0, 1, b"test"),
                    data(flag::END_STREAM, 1, b"test"),
                ]
                .concat()
            },
            STREAM_PROTOCOL,
        ),
        case(
            "own: a length and nothing behind it",
            |s| s.get_with(1, "/hold", &field(b"content-length", b"1")),
            STREAM_PROTOCOL,
        ),
        case(
            "own: a body shorter than its length",
            |s| {
                [s.post_with(1, "/hold", &field(b"content-length", b"9")), data(flag::END_STREAM, 1, b"test")]
                    .concat()
            },
            STREAM_PROTOCOL,
        ),
        case(
            "own: a body shorter than its length, with trailers",
            |s| {
                [
                    s.post_with(1, "/hold", &field(b"content-length", b"9")),
                    data(0, 1, b"test"),
                    whole(1, &field(b"x-test", b"ok")),
                ]
                .concat()
            },
            STREAM_PROTOCOL,
        ),
        case(
            "own: two authorities",
            |s| whole(1, &[field(b":authority", b"app"), s.request("GET", "/")].concat()),
            STREAM_PROTOCOL,
        ),
        case("own: CONNECT with a path", |s| whole(1, &s.request("CONNECT", "/")), STREAM_PROTOCOL),
        case(
            "own: a protocol without CONNECT",
            |s| whole(1, &[field(b":protocol", b"websocket"), s.request("GET", "/")].concat()),
            STREAM_PROTOCOL,
        ),
        case(
            "own: an extended CONNECT without a path",
            |s| {
                whole(
                    1,
                    &s.block(&[(":method", "CONNECT"), (":protocol", "websocket"), (":authority", "app")]),
                )
            },
            STREAM_PROTOCOL,
        ),
    ]
}

/// Fields that an application behind HTTP/1.1 could read in another way.
fn fields() -> Vec<Case> {
    fn get(side: &Side, name: &[u8], value: &[u8]) -> Vec<u8> {
        side.get_with(1, "/", &field(name, value))
    }
    fn to(side: &Side, authority: &str, more: &[u8]) -> Vec<u8> {
        let pseudo =
            [(":method", "GET"), (":scheme", side.scheme), (":path", "/"), (":authority", authority)];
        whole(1, &[&side.block(&pseudo), more].concat())
    }
    fn path(side: &Side, path: &str) -> Vec<u8> {
        whole(1, &side.request("GET", path))
    }
    vec![
        case("own: CR in a value", |s| get(s, b"x-test", b"a\rb"), STREAM_PROTOCOL),
        case("own: LF in a value", |s| get(s, b"x-test", b"a\nb"), STREAM_PROTOCOL),
        case("own: CR LF in a value", |s| get(s, b"x-test", b"a\r\nhost: b"), STREAM_PROTOCOL),
        case("own: NUL in a value", |s| get(s, b"x-test", b"a\0b"), STREAM_PROTOCOL),
        case("own: a space before a value", |s| get(s, b"x-test", b" a"), STREAM_PROTOCOL),
        case("own: a space behind a value", |s| get(s, b"x-test", b"a "), STREAM_PROTOCOL),
        case("own: a tab behind a value", |s| get(s, b"x-test", b"a\t"), STREAM_PROTOCOL),
        case("own: an empty name", |s| get(s, b"", b"a"), STREAM_PROTOCOL),
        case("own: CR LF in a name", |s| get(s, b"x\r\ny", b"a"), STREAM_PROTOCOL),
        case("own: NUL in a name", |s| get(s, b"x\0y", b"a"), STREAM_PROTOCOL),
        case("own: a space in a name", |s| get(s, b"x y", b"a"), STREAM_PROTOCOL),
        case("own: a colon in a name", |s| get(s, b"x:y", b"a"), STREAM_PROTOCOL),
        case("own: a name that is not ASCII", |s| get(s, b"x\xc3\xa9", b"a"), STREAM_PROTOCOL),
        case("own: keep-alive", |s| get(s, b"keep-alive", b"1"), STREAM_PROTOCOL),
        case("own: proxy-connection", |s| get(s, b"proxy-connection", b"close"), STREAM_PROTOCOL),
        case("own: transfer-encoding", |s| get(s, b"transfer-encoding", b"chunked"), STREAM_PROTOCOL),
        case("own: upgrade", |s| get(s, b"upgrade", b"websocket"), STREAM_PROTOCOL),
        case("own: te of trailers", |s| get(s, b"te", b"trailers"), ANSWERED),
        case(
            "own: a name that looks like transfer-encoding",
            |s| get(s, b"transfer_encoding", b"chunked"),
            STREAM_PROTOCOL,
        ),
        case(
            "own: a name that looks like content-length",
            |s| get(s, b"content_length", b"4"),
            STREAM_PROTOCOL,
        ),
        case(
            "own: two lengths",
            |s| {
                let length = field(b"content-length", b"4");
                [s.post_with(1, "/", &length.repeat(2)), data(flag::END_STREAM, 1, b"test")].concat()
            },
            STREAM_PROTOCOL,
        ),
        case(
            "own: a length with a sign",
            |s| {
                [s.post_with(1, "/", &field(b"content-length", b"+4")), data(flag::END_STREAM, 1, b"test")]
                    .concat()
            },
            STREAM_PROTOCOL,
        ),
        case(
            "own: a list of lengths",
            |s| {
                [s.post_with(1, "/", &field(b"content-length", b"4, 4")), data(flag::END_STREAM, 1, b"test")]
                    .concat()
            },
            STREAM_PROTOCOL,
        ),
        case("own: CR LF in the path", |s| path(s, "/ HTTP/1.1\r\nhost: b"), STREAM_PROTOCOL),
        case("own: a space in the path", |s| path(s, "/a b"), STREAM_PROTOCOL),
        case("own: a path that is an URI", |s| path(s, "http://other/"), STREAM_PROTOCOL),
        case("own: a path that is a name", |s| path(s, "other"), STREAM_PROTOCOL),
        case("own: a path of *", |s| path(s, "*"), STREAM_PROTOCOL),
        case("own: a fragment in the path", |s| path(s, "/a#b"), STREAM_PROTOCOL)
            .but(OK, "the library for URIs drops it; what is passed on has none"),
        case("own: a method with a space", |s| whole(1, &s.request("GET /x", "/")), STREAM_PROTOCOL),
        case("own: an empty method", |s| whole(1, &s.request("", "/")), STREAM_PROTOCOL),
        case("own: CR LF in the authority", |s| to(s, "app\r\nx: y", &[]), STREAM_PROTOCOL),
        case("own: a user in the authority", |s| to(s, "user@app", &[]), REFUSED),
        case("own: a port that is none", |s| to(s, "app:99999", &[]), REFUSED),
        case("own: an empty authority", |s| to(s, "", &[]), STREAM_PROTOCOL),
        case("own: host and authority that differ", |s| to(s, "app", &field(b"host", b"other")), REFUSED),
        case("own: host and authority that agree", |s| to(s, "app", &field(b"host", b"app")), ANSWERED),
        case("own: two hosts", |s| to(s, "app", &field(b"host", b"app").repeat(2)), REFUSED),
        case(
            "own: host alone",
            |s| {
                let pseudo = [(":method", "GET"), (":scheme", s.scheme), (":path", "/")];
                whole(1, &[s.block(&pseudo), field(b"host", b"app")].concat())
            },
            ANSWERED,
        ),
        case(
            "own: neither host nor authority",
            |s| whole(1, &s.block(&[(":method", "GET"), (":scheme", s.scheme), (":path", "/")])),
            REFUSED,
        ),
        case(
            "own: CR LF in a trailer",
            |s| [s.post(1, "/hold"), data(0, 1, b"test"), whole(1, &field(b"x-test", b"a\r\nb"))].concat(),
            STREAM_PROTOCOL,
        ),
    ]
}

/// RFC 7541: what cannot be decoded ends the connection, since its tables no longer agree.
fn hpack() -> Vec<Case> {
    vec![
        case("hpack 2.3.3/1: index 0", |s| s.get_with(1, "/", b"\x80"), COMPRESSION),
        case("hpack 2.3.3/2: an index beyond both tables", |s| s.get_with(1, "/", b"\xc6"), COMPRESSION),
        case(
            "hpack 4.2/1: a change of the table's size behind a field",
            |s| s.get_with(1, "/", b"\x3f\xe1\x1f"),
            COMPRESSION,
        ),
        case(
            "hpack 5.2/1: padding of more than 7 bits",
            |s| s.get_with(1, "/", b"\x10\x01a\x82\x1f\xff"),
            COMPRESSION,
        ),
        case("hpack 5.2/2: padding of zeros", |s| s.get_with(1, "/", b"\x10\x01a\x81\x18"), COMPRESSION),
        case(
            "hpack 5.2/3: the end-of-string symbol",
            |s| s.get_with(1, "/", b"\x10\x01a\x84\xff\xff\xff\xff"),
            COMPRESSION,
        ),
        case(
            "hpack 6.1/1: an indexed field of index 0",
            |s| whole(1, &[b"\x80", &s.request("GET", "/")[..]].concat()),
            COMPRESSION,
        ),
        case(
            "hpack 6.3/1: a table larger than was allowed",
            |s| whole(1, &[b"\x3f\xe2\x1f", &s.request("GET", "/")[..]].concat()),
            COMPRESSION,
        ),
        case(
            "own: an integer that overflows",
            |s| s.get_with(1, "/", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x0f"),
            COMPRESSION,
        ),
        case("own: a literal that is cut off", |s| s.get_with(1, "/", b"\x10\x0aabc"), COMPRESSION),
    ]
}
