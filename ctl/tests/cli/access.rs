//! Tokens and passwords: where they are read from, what is sent, and that every call shows the token.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::fake::{SECRET, Server};
use crate::runner::{Ran, cid, command, run, run_with_input};
use crate::scenes::cluster;

fn file(folder: &Path, name: &str, text: &str, mode: u32) -> String {
    let path = folder.join(name);
    std::fs::write(&path, text).expect("writable");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("ours");
    path.to_str().expect("text").to_owned()
}

/// Variables, arguments, and what is shown then.
type Case<'a> = (&'a [(&'a str, &'a str)], &'a [&'a str], Option<&'a str>);

fn run_with(server: &Server, variables: &[(&str, &str)], arguments: &[&str]) -> Ran {
    let mut command = command(&server.api(), arguments);
    command.envs(variables.iter().copied());
    command.output().expect("starts").into()
}

#[test]
fn the_token_comes_from_the_flag_then_the_variable_then_the_file_it_names() {
    let server = cluster();
    let folder = tempfile::tempdir().expect("a folder");
    let one = file(folder.path(), "one", "pft_one\nmore\n", 0o600);
    let two = file(folder.path(), "two", "  pft_two  ", 0o600);
    let arguments = ["pin", "ls", "--count"];
    let flagged = ["--token-file", &one, "pin", "ls", "--count"];
    let cases: [Case<'_>; 5] = [
        (&[], &arguments, None),
        (&[("PINFLEET_TOKEN", "")], &arguments, None),
        (&[("PINFLEET_TOKEN_FILE", &two)], &arguments, Some("Bearer pft_two")),
        (
            &[("PINFLEET_TOKEN", "pft_three"), ("PINFLEET_TOKEN_FILE", &two)],
            &arguments,
            Some("Bearer pft_three"),
        ),
        (&[("PINFLEET_TOKEN", "pft_three")], &flagged, Some("Bearer pft_one")),
    ];
    for (variables, arguments, shown) in cases {
        server.fake.shown.lock().expect("not poisoned").clear();
        let ran = run_with(&server, variables, arguments).expect(0);
        assert_eq!(ran.stderr, "", "{variables:?}");
        let seen = server.fake.shown.lock().expect("not poisoned").clone();
        assert!(
            !seen.is_empty() && seen.iter().all(|seen| seen.as_deref() == shown),
            "{seen:?}"
        );
    }
}

#[test]
fn every_kind_of_call_shows_it() {
    let server = cluster();
    let folder = tempfile::tempdir().expect("a folder");
    let content = file(folder.path(), "content", "some bytes", 0o644);
    let list = file(folder.path(), "cids.txt", &format!("{}\n", cid(7)), 0o644);
    let journal = folder.path().join("journal").to_str().expect("text").to_owned();
    let one = cid(1);
    let runs: [&[&str]; 6] = [
        &["pin", "add", &one],
        &["pin", "import", &list, "--journal", &journal],
        &["add", &content],
        &["watch", "--limit", "1"],
        &["token", "ls"],
        &["status"],
    ];
    for arguments in runs {
        server.fake.shown.lock().expect("not poisoned").clear();
        run_with(&server, &[("PINFLEET_TOKEN", "pft_it")], arguments).expect(0);
        let seen = server.fake.shown.lock().expect("not poisoned").clone();
        assert!(
            !seen.is_empty() && seen.iter().all(|seen| seen.as_deref() == Some("Bearer pft_it")),
            "{arguments:?}: {seen:?}"
        );
    }
}

#[test]
fn what_is_no_token_is_refused_and_not_told() {
    let server = cluster();
    let folder = tempfile::tempdir().expect("a folder");
    let empty = file(folder.path(), "empty", "\n", 0o600);
    run(&server.api(), &["--token-file", &empty, "status"])
        .expect(2)
        .says("empty holds no token");
    run(&server.api(), &["--token-file", "/no/such/file", "status"])
        .expect(2)
        .says("/no/such/file can't be read");
    let ran = run_with(&server, &[("PINFLEET_TOKEN", "my secret words")], &["status"]).expect(2);
    assert!(
        ran.stderr.contains("PINFLEET_TOKEN holds no token") && !ran.stderr.contains("secret"),
        "{}",
        ran.stderr
    );
    let open = file(folder.path(), "open", "pft_one", 0o644);
    run(&server.api(), &["--token-file", &open, "pin", "ls", "--count"])
        .expect(0)
        .says("can be read by others; `chmod 600");
}

#[test]
fn a_password_comes_from_stdin_or_a_file_and_is_never_shown() {
    let server = cluster();
    let folder = tempfile::tempdir().expect("a folder");
    let file = file(folder.path(), "password", "from a file \nmore", 0o600);
    let ran = run_with_input(
        &server.api(),
        &["credential", "create", "alice"],
        b"from stdin, 12 and more\n",
    )
    .expect(0);
    assert_eq!(ran.stdout, "", "what is known to the user is not shown again");
    run(
        &server.api(),
        &["credential", "create", "bob", "--password-file", &file, "-o", "json"],
    )
    .expect(0);
    let ran = run(&server.api(), &["credential", "create", "carol", "--generate"]).expect(0);
    assert_eq!(ran.stdout, format!("{SECRET}\n"));
    let sent = server.fake.calls("create_credential");
    let expected = [
        "alice \"from stdin, 12 and more\"",
        "bob \"from a file \"",
        "carol \"\"",
    ];
    assert_eq!(sent, expected);
    for (input, code, words) in [
        (&b""[..], 2, "the password is empty"),
        (b"short", 0, "fewer than 12 characters"),
    ] {
        run_with_input(&server.api(), &["credential", "create", "dave"], input)
            .expect(code)
            .says(words);
    }
    // Nothing is read or sent for a name that can't be.
    let before = server.fake.calls("create_credential").len();
    run(&server.api(), &["credential", "create", "a:b"])
        .expect(2)
        .says("name \"a:b\"");
    run(&server.api(), &["token", "create", "ci", "--namespace", "A"])
        .expect(2)
        .says("namespace");
    assert_eq!(server.fake.calls("create_credential").len(), before);
}
