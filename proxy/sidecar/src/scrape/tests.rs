use std::fmt;
use std::io;
use std::path::Path;

use futures::future::BoxFuture;
use penstock_dialect::engine::Engine;
use penstock_model::Source;
use penstock_model::settings::AccessLog;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::time::sleep;

use super::*;
use crate::identity::Identity;
use crate::tasks::Tasks;
use crate::upstream::dial::{Dial, Wire};

const PAGE: &str = "vllm:num_requests_running 3\nvllm:num_requests_waiting 1\n";

/// What the application does when it is asked.
enum Reply {
    Refuse,
    Hang,
    Answer(u16, String),
    After(Duration, u16, String),
}

type Asked = Arc<Mutex<Vec<(u64, String)>>>;
type Script = Arc<dyn Fn(usize, &str) -> Reply + Send + Sync>;

/// A network with one application, which is told what to do by the number of the request and its path.
struct Network {
    tasks: Tasks,
    asked: Asked,
    script: Script,
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Network")
    }
}

impl Dial for Network {
    fn dial(&self, _address: SocketAddr) -> BoxFuture<'static, io::Result<Box<dyn Wire>>> {
        let count = self.asked.lock().len();
        if matches!((self.script)(count, ""), Reply::Refuse) {
            self.asked.lock().push((clock::now().0 / 1_000_000, "refused".to_owned()));
            return Box::pin(async { Err(io::ErrorKind::ConnectionRefused.into()) });
        }
        let (near, far) = duplex(64 << 10);
        self.tasks.spawn("application", serve(far, Arc::clone(&self.asked), Arc::clone(&self.script)));
        Box::pin(async move { Ok(Box::new(near) as Box<dyn Wire>) })
    }
}

async fn serve(mut stream: DuplexStream, asked: Asked, script: Script) {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => return,
            }
        }
        let head = String::from_utf8(head).unwrap();
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        let number = asked.lock().len();
        asked.lock().push((clock::now().0 / 1_000_000, path.clone()));
        let (after, status, body) = match script(number, &path) {
            Reply::Refuse => return,
            Reply::Hang => std::future::pending().await,
            Reply::Answer(status, body) => (Duration::ZERO, status, body),
            Reply::After(after, status, body) => (after, status, body),
        };
        sleep(after).await;
        let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

fn endpoint() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 8_000))
}

fn settings(application: &str) -> ProxySettings {
    let text = format!(
        "apiVersion: penstock.dev/v1alpha1\nkind: ProxyConfig\nmetadata: {{name: chat}}\nspec:\n  controlPlane: {{address: 'a:1', \
         trustBundleFile: r, tokenFile: t}}\n  inbound: {{applications: [{{endpoint: '127.0.0.1:8000'{application}}}]}}\n"
    );
    let source = Source { file: "proxy.yaml".to_owned(), text };
    penstock_model::compile_proxy(&[source], Path::new("/etc")).unwrap().0
}

/// What a test sees while it is being asked.
struct World {
    scrapes: Arc<Scrapes>,
    asked: Asked,
    telemetry: Arc<Telemetry>,
}

impl World {
    /// Runs `story` while an application that does as `script` says is asked.
    async fn tell(
        application: &str,
        script: impl Fn(usize, &str) -> Reply + Send + Sync + 'static,
        story: impl AsyncFnOnce(&World),
    ) {
        clock::simulate(Duration::ZERO);
        let tasks = Tasks::default();
        let asked = Asked::default();
        let telemetry = Telemetry::new(&AccessLog::Off).unwrap();
        let network = Network { tasks: tasks.clone(), asked: Arc::clone(&asked), script: Arc::new(script) };
        let pool =
            Pool::new(Arc::new(network), &Identity::new(), tasks.clone(), Arc::clone(&telemetry)).unwrap();
        let scrapes = Arc::new(Scrapes::default());
        let scraper = Scraper {
            settings: Settings::new(settings(application)),
            scrapes: Arc::clone(&scrapes),
            pool: Arc::new(pool),
            telemetry: Arc::clone(&telemetry),
        };
        let world = World { scrapes, asked, telemetry };
        tokio::select! {
            biased;
            () = scraper.run() => panic!("it ended"),
            () = story(&world) => {}
        }
        tasks.cut();
    }

    /// When it was asked since this was asked for last, in milliseconds, and the distinct paths.
    fn asked(&self) -> (Vec<u64>, Vec<String>) {
        let asked = std::mem::take(&mut *self.asked.lock());
        let mut paths: Vec<_> = asked.iter().map(|(_, path)| path.clone()).collect();
        paths.dedup();
        (asked.into_iter().map(|(at, _)| at).collect(), paths)
    }

    fn latest(&self) -> Option<Arc<Taken>> {
        self.scrapes.latest(endpoint(), clock::now())
    }

    fn last_error(&self) -> String {
        self.scrapes.all()[0].1.status(clock::now())["lastError"].as_str().unwrap_or_default().to_owned()
    }

    fn counted(&self, result: &str) -> u64 {
        self.telemetry.metrics.scrapes.with_label_values(&["127.0.0.1:8000", result]).get()
    }
}

async fn seconds(count: f64) {
    sleep(Duration::from_secs_f64(count)).await;
}

fn page(_: usize, _: &str) -> Reply {
    Reply::Answer(200, PAGE.to_owned())
}

#[tokio::test(start_paused = true)]
async fn it_is_asked_often_while_it_has_requests_and_a_little_longer_and_seldom_else() {
    World::tell("", page, async |world| {
        seconds(6.1).await;
        assert_eq!(world.asked(), (vec![0, 5_000], vec!["/metrics".to_owned()]));
        // What was asked long ago is asked at once.
        let serving = world.scrapes.serve(endpoint()).unwrap();
        let second = world.scrapes.serve(endpoint()).unwrap();
        seconds(1.0).await;
        assert_eq!(world.asked().0, [6_100, 6_300, 6_500, 6_700, 6_900]);
        drop(serving);
        seconds(1.0).await;
        assert_eq!(world.asked().0, [7_100, 7_300, 7_500, 7_700, 7_900]);
        drop(second);
        seconds(5.0).await;
        assert_eq!(world.asked().0.len(), 25);
        seconds(12.0).await;
        assert_eq!(world.asked().0, [13_100, 18_100, 23_100]);
        assert_eq!(world.counted("success"), 2 + 10 + 25 + 3);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_it_says_is_known_until_it_is_stale() {
    World::tell("", page, async |world| {
        assert_eq!(world.latest(), None);
        seconds(0.001).await;
        let taken = world.latest().unwrap();
        assert_eq!(
            (taken.gauges.engine, taken.gauges.running, taken.gauges.waiting),
            (Engine::Vllm, Some(3), Some(1))
        );
        seconds(1.998).await;
        assert!(world.latest().is_some());
        seconds(0.002).await;
        assert_eq!(world.latest(), None, "2 s are over");
        assert_eq!(world.scrapes.all()[0].1.age(clock::now()), Some(Duration::from_millis(2_001)));
        assert_eq!(world.scrapes.latest(SocketAddr::from(([127, 0, 0, 1], 1)), clock::now()), None);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn one_without_a_page_is_asked_at_both_paths_ever_more_seldom_and_says_why() {
    World::tell(
        "",
        |_, _| Reply::Answer(404, String::new()),
        async |world| {
            let _serving = world.scrapes.serve(endpoint()).unwrap();
            seconds(200.0).await;
            let (times, paths) = world.asked();
            let rounds: Vec<u64> = times.into_iter().step_by(2).collect();
            assert_eq!(rounds, [0, 1_000, 3_000, 7_000, 15_000, 31_000, 63_000, 123_000, 183_000]);
            assert_eq!(&paths[..2], ["/metrics", "/prometheus/metrics"]);
            assert!(world.last_error().starts_with("answered 404: "), "{}", world.last_error());
            assert_eq!((world.counted("not_found"), world.counted("success")), (9, 0));
            assert_eq!(world.latest(), None);
        },
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_path_that_has_a_page_is_asked_for_from_then_on() {
    let trtllm = |_: usize, path: &str| match path {
        "/prometheus/metrics" => Reply::Answer(200, "trtllm_num_requests_waiting 2\n".to_owned()),
        _ => Reply::Answer(200, "[]".to_owned()),
    };
    World::tell("", trtllm, async |world| {
        seconds(11.0).await;
        let (_, paths) = world.asked();
        assert_eq!(paths, ["/metrics", "/prometheus/metrics"]);
        assert_eq!(world.counted("success"), 3);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_path_that_is_written_is_the_only_one() {
    let written = ", metrics: {path: '/stats?model=m', port: 8002}";
    World::tell(
        written,
        |_, _| Reply::Answer(404, String::new()),
        async |world| {
            seconds(10.0).await;
            assert_eq!(world.asked().1, ["/stats?model=m"]);
            assert_eq!(world.scrapes.all()[0].1.status(clock::now())["address"], "127.0.0.1:8002");
        },
    )
    .await;
}

/// That an application that does so is asked at these times, and what is counted and said of it.
async fn check_failing(reply: fn() -> Reply, times: &[u64], result: &str, why: &str) {
    World::tell(
        ", metrics: {path: /metrics}",
        move |_, _| reply(),
        async |world| {
            seconds(20.0).await;
            assert_eq!(world.asked().0, times, "{result}");
            assert_eq!(world.counted(result), times.len() as u64, "{result}");
            assert!(world.last_error().contains(why), "{result}: {}", world.last_error());
            assert_eq!(world.latest(), None, "{result}");
        },
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn every_failure_has_its_reason_and_its_pace() {
    const SILENT: [u64; 6] = [0, 1_000, 3_000, 7_000, 12_000, 17_000];
    const UNFIT: [u64; 5] = [0, 1_000, 3_000, 7_000, 15_000];
    check_failing(|| Reply::Refuse, &SILENT, "unreachable", "cannot connect to 127.0.0.1:8000").await;
    check_failing(|| Reply::Answer(503, String::new()), &SILENT, "status", "answered 503").await;
    check_failing(|| Reply::Answer(500, String::new()), &UNFIT, "status", "answered 500").await;
    check_failing(|| Reply::Answer(401, String::new()), &UNFIT, "status", "answered 401").await;
    let garbage = || Reply::Answer(200, "<html><body>It works!".to_owned());
    check_failing(garbage, &UNFIT, "unknown_engine", "the page begins with `<html><body>It works!`").await;
    check_failing(|| Reply::Answer(200, "tgi_queue_size".to_owned()), &UNFIT, "torn", "ends after 14 bytes")
        .await;
    check_failing(
        || Reply::Answer(200, "tgi_queue_size -1\n".to_owned()),
        &UNFIT,
        "impossible",
        "line 1: -1",
    )
    .await;
    let huge = || Reply::Answer(200, PAGE.repeat(40_000));
    check_failing(huge, &UNFIT, "too_large", "more than 1048576 bytes").await;
    // Each waits a second for its answer.
    check_failing(|| Reply::Hang, &[0, 2_000, 5_000, 10_000, 19_000], "timeout", "within 1s").await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_page_does_not_take_more_than_a_tenth_of_the_time() {
    let slow = |_: usize, _: &str| Reply::After(Duration::from_millis(300), 200, PAGE.to_owned());
    World::tell("", slow, async |world| {
        let _serving = world.scrapes.serve(endpoint()).unwrap();
        seconds(7.0).await;
        assert_eq!(world.asked().0, [0, 3_000, 6_000]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn one_that_comes_back_is_known_again() {
    let returning = |number: usize, _: &str| if number < 4 { Reply::Refuse } else { page(0, "") };
    World::tell("", returning, async |world| {
        seconds(11.0).await;
        assert_eq!((world.latest(), world.counted("unreachable")), (None, 4));
        seconds(1.5).await;
        assert!(world.latest().is_some());
        assert_eq!(world.last_error(), "");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn one_that_is_not_there_twice_in_a_row_has_gone_and_one_that_misses_a_question_has_not() {
    // By the times above: 0, 5 s; nobody at 10 s; 11 s; nobody at 16 and 17 s, nor at 19 s.
    let leaving = |number: usize, _: &str| match number {
        2 | 4..=6 => Reply::Refuse,
        _ => page(0, ""),
    };
    World::tell("", leaving, async |world| {
        let gone = || world.scrapes.gone(endpoint());
        seconds(15.0).await;
        assert_eq!((gone(), world.counted("unreachable")), (0, 1));
        seconds(1.5).await;
        assert_eq!((gone(), world.counted("unreachable")), (0, 2));
        seconds(1.0).await;
        assert_eq!((gone(), world.counted("unreachable")), (1, 3));
        seconds(30.0).await;
        assert_eq!((gone(), world.counted("unreachable")), (1, 4));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn one_that_is_not_to_be_asked_is_not() {
    for written in [", metrics: {scrape: false}", ", protocol: grpc"] {
        World::tell(written, page, async |world| {
            assert!(world.scrapes.serve(endpoint()).is_none());
            seconds(20.0).await;
            assert_eq!(world.asked().0, [0; 0]);
        })
        .await;
    }
}

#[test]
fn what_is_known_of_an_application_stays_for_as_long_as_its_page_is_the_same() {
    let scrapes = Scrapes::default();
    let known = |application: &str| {
        scrapes.adopt(&settings(application));
        scrapes.all().pop().map(|(_, scraped)| scraped)
    };
    let first = known("").unwrap();
    assert!(Arc::ptr_eq(&first, &known(", protocol: http").unwrap()));
    assert!(!Arc::ptr_eq(&first, &known(", metrics: {port: 9}").unwrap()));
    assert!(known(", metrics: {scrape: false}").is_none());
}
