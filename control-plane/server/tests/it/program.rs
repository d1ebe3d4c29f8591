//! The program itself: what it prints, and how it ends.

use std::process::Stdio;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::plane::{backend, within};

fn program(dir: &std::path::Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_penstock-control-plane"));
    command
        .arg("--config")
        .arg(dir.join("config"))
        .arg("--state-dir")
        .arg(dir.join("state"))
        .args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--log-format", "json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

async fn signal(child: &Child, name: &str) {
    let pid = child.id().unwrap().to_string();
    assert!(Command::new("kill").args([name, &pid]).status().await.unwrap().success());
}

#[tokio::test]
async fn it_prints_one_line_and_ends_well_on_either_signal() {
    for name in ["-TERM", "-INT"] {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("config")).unwrap();
        std::fs::write(dir.path().join("config/a.yaml"), backend("chat", "10.0.0.1")).unwrap();
        let mut child = program(dir.path()).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        within(stdout.read_line(&mut line)).await.unwrap();
        let line: Value = serde_json::from_str(&line).unwrap();
        for address in ["grpc", "admin"] {
            let address: std::net::SocketAddr = line["listening"][address].as_str().unwrap().parse().unwrap();
            assert_ne!(address.port(), 0);
            within(tokio::net::TcpStream::connect(address)).await.unwrap();
        }
        for file in ["trust_bundle", "join_token"] {
            assert!(std::path::Path::new(line[file].as_str().unwrap()).is_file(), "{line}");
        }
        signal(&child, name).await;
        let mut rest = String::new();
        within(stdout.read_to_string(&mut rest)).await.unwrap();
        assert_eq!(rest, "");
        assert_eq!(within(child.wait()).await.unwrap().code(), Some(0), "{name}");
    }
}

#[tokio::test]
async fn a_state_that_cannot_be_trusted_is_an_error_with_its_remedy() {
    use std::os::unix::fs::PermissionsExt;

    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("state/ca-key.pem");
    std::fs::create_dir(dir.path().join("state")).unwrap();
    std::fs::write(&key, "key").unwrap();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let output = within(program(dir.path()).output()).await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(log.contains("chmod 600"), "{log}");
}
