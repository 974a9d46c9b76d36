use std::convert::Infallible;

use futures::executor::block_on;
use futures::stream::{self, StreamExt as _};
use proptest::prelude::*;

use super::*;

fn headers(content_type: &str) -> HeaderMap {
    HeaderMap::from_iter([(header::CONTENT_TYPE, content_type.parse().unwrap())])
}

fn parts_of(pieces: Vec<Vec<u8>>, limits: &Limits) -> Parts {
    let body = Body::from_stream(stream::iter(pieces.into_iter().map(Ok::<_, Infallible>)));
    Parts::new(&headers("multipart/form-data; boundary=B"), body, limits).unwrap()
}

type Read = Vec<(Part, Vec<u8>)>;

/// All parts with their content, and how it ended.
fn read(mut parts: Parts) -> (Read, Result<(), Failure>) {
    block_on(async move {
        let mut all = Vec::new();
        loop {
            let part = match parts.next().await {
                Ok(Some(part)) => part,
                Ok(None) => return (all, Ok(())),
                Err(failure) => {
                    assert!(parts.next().await.is_err() && parts.chunk().await.is_err());
                    return (all, Err(failure));
                }
            };
            all.push((part, Vec::new()));
            loop {
                let content = &mut all.last_mut().unwrap().1;
                match parts.chunk().await {
                    Ok(Some(chunk)) => {
                        assert!(!chunk.is_empty());
                        content.extend_from_slice(&chunk);
                    }
                    Ok(None) => break,
                    Err(failure) => return (all, Err(failure)),
                }
            }
        }
    })
}

fn read_text(text: &str) -> (Read, Result<(), Failure>) {
    read(parts_of(vec![text.as_bytes().to_vec()], &Limits::default()))
}

fn part(path: &str, kind: PartKind) -> Part {
    Part {
        path: path.to_owned(),
        kind,
        abspath: None,
        mode: None,
        mtime: None,
    }
}

#[test]
fn what_the_clients_send_is_read() {
    // The Go client's directory and file, the Python client's file, a link, and a part without anything.
    let (all, end) = read_text(concat!(
        "--B\r\nContent-Disposition: form-data; name=\"file\"; filename=\"d\"\r\n",
        "Content-Type: application/x-directory\r\n\r\n\r\n",
        "--B\r\nContent-Disposition: form-data; name=\"file?mode=0644\"; filename=\"d%2Fx+y.txt\"\r\n",
        "Content-Type: application/octet-stream\r\nabspath-encoded: %2Ftmp%2Fd%2Fx+y.txt\r\n\r\nhello\r\n",
        "--B\r\nContent-Disposition: file; filename=\"a%b.txt\"\r\nContent-Type: text/plain\r\nAbspath: /tmp/a\r\n\r\n\r\n\r\n\r\n",
        "--B \t\r\ncontent-disposition: attachment; filename=\"../../l\"\r\ncontent-type: Application/Symlink; x=y\r\n\r\nd\r\n",
        "--B\r\n\r\nplain\r\n--Bee\r\n--B--\r\nepilogue",
    ));
    assert_eq!(end, Ok(()));
    let mut second = part("d/x y.txt", PartKind::File);
    second.abspath = Some("/tmp/d/x y.txt".to_owned());
    second.mode = Some(0o644);
    let mut third = part("a%b.txt", PartKind::File);
    third.abspath = Some("/tmp/a".to_owned());
    let expected: [(Part, &[u8]); 5] = [
        (part("d", PartKind::Directory), b""),
        (second, b"hello"),
        (third, b"\r\n\r\n"),
        (part("l", PartKind::Symlink), b"d"),
        (part("", PartKind::File), b"plain\r\n--Bee"),
    ];
    let all: Vec<_> = all
        .iter()
        .map(|(part, content)| (part.clone(), content.as_slice()))
        .collect();
    assert_eq!(all, expected);
}

#[test]
fn a_part_without_content_may_lack_the_line_break_before_the_boundary() {
    let (all, end) = read_text("--B\r\nContent-Type: application/x-directory\r\n\r\n--B\r\nx: y\r\n\r\n--B--");
    assert_eq!(end, Ok(()));
    assert_eq!(all.len(), 2);
    assert!(all.iter().all(|(_, content)| content.is_empty()));
}

#[test]
fn an_upload_without_parts_is_no_error() {
    assert_eq!(read_text("--B--\r\n"), (Vec::new(), Ok(())));
    assert_eq!(read_text("preamble\r\n--B--"), (Vec::new(), Ok(())));
}

#[test]
fn content_types_are_judged_before_the_body_is_read() {
    let limits = Limits::default();
    let told = |content_type: &str| {
        let parts = Parts::new(&headers(content_type), Body::empty(), &limits);
        parts
            .map(|parts| String::from_utf8(parts.delimiter.needle().to_vec()).unwrap())
            .map_err(|f| f.message)
    };
    assert_eq!(
        told("multipart/form-data; boundary=\"a b\""),
        Ok("\r\n--a b".to_owned())
    );
    assert_eq!(
        told("Multipart/Mixed;Boundary=----x'y:z"),
        Ok("\r\n------x'y:z".to_owned())
    );
    let not = Err("request Content-Type isn't multipart/form-data".to_owned());
    for content_type in [
        "application/json",
        "multipart/related; boundary=a",
        "text/plain; boundary=a",
        "multipart/form-data; a",
    ] {
        assert_eq!(told(content_type), not, "{content_type}");
    }
    let none = Err("no multipart boundary param in Content-Type".to_owned());
    let long = format!("multipart/form-data; boundary={}", "b".repeat(201));
    for content_type in ["multipart/form-data", "multipart/form-data; boundary=\"\"", &long] {
        assert_eq!(told(content_type), none, "{content_type}");
    }
    assert!(Parts::new(&HeaderMap::new(), Body::empty(), &limits).is_err());
}

#[test]
fn each_bound_is_held() {
    let limits = Limits {
        parts_max: 2,
        part_head_bytes_max: 1024,
        ..Limits::default()
    };
    let pieces = |text: String| vec![text.into_bytes()];
    let (all, end) = read(parts_of(pieces("--B\r\n\r\n\r\n".repeat(3) + "--B--"), &limits));
    assert_eq!((all.len(), end.unwrap_err().status.as_u16()), (2, 413));

    let long = format!("--B\r\nx: {}\r\n\r\n\r\n--B--", "y".repeat(1024));
    let (all, end) = read(parts_of(pieces(long), &limits));
    assert_eq!((all.len(), end.unwrap_err().status.as_u16()), (0, 400));

    // One that never ends is not waited for, and what came of it is all that was held.
    let endless = stream::iter(std::iter::repeat_with(|| {
        Ok::<_, Infallible>(Bytes::from_static(&[b'y'; 512]))
    }));
    let body = Body::from_stream(stream::iter([Ok(Bytes::from_static(b"--B\r\nx: "))]).chain(endless));
    let mut parts = Parts::new(&headers("multipart/form-data; boundary=B"), body, &limits).unwrap();
    assert_eq!(block_on(parts.next()).unwrap_err().status, 400);
    assert!(parts.buffer.len() < 2048);

    let many = format!("--B\r\n{}\r\n\r\n--B--", "x: y\r\n".repeat(33));
    assert_eq!(read_text(&many).1.unwrap_err().status, 400);
    let preamble = "x".repeat(PREAMBLE_BYTES_MAX + 1) + "\r\n--B--";
    assert_eq!(read_text(&preamble).1.unwrap_err().status, 400);
}

#[test]
fn a_short_text_is_bounded_and_utf_8() {
    let limits = Limits::default();
    for (content, most, expected) in [("ab", 2, Some("ab")), ("abc", 2, None)] {
        let mut parts = parts_of(vec![format!("--B\r\n\r\n{content}\r\n--B--").into_bytes()], &limits);
        block_on(parts.next()).unwrap().unwrap();
        assert_eq!(block_on(parts.text(most)).ok().as_deref(), expected);
    }
    let (_, end) = read_text("--B\r\nContent-Disposition: x; filename=\"%FF\"\r\n\r\n\r\n--B--");
    assert!(end.unwrap_err().message.contains("not UTF-8"));
}

#[test]
fn skipping_a_part_reads_past_its_content() {
    let text = format!(
        "--B\r\n\r\n{}\r\n--B\r\nx: y\r\n\r\nsecond\r\n--B--",
        "first\r\n".repeat(1000)
    );
    let mut parts = parts_of(vec![text.into_bytes()], &Limits::default());
    block_on(async {
        parts.next().await.unwrap().unwrap();
        parts.next().await.unwrap().unwrap();
        assert_eq!(parts.chunk().await.unwrap().unwrap(), "second");
        assert_eq!(parts.chunk().await.unwrap(), None);
        assert_eq!(parts.chunk().await.unwrap(), None);
        assert_eq!(parts.next().await.unwrap(), None);
        assert_eq!(parts.next().await.unwrap(), None);
    });
}

/// Content in which much looks like a boundary.
fn content() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop::sample::select(vec![
        &b"\r\n"[..],
        b"\r",
        b"--",
        b"B",
        b"\r\n--",
        b"\r\n--Bx",
        b"\r\n--B \r",
        b"text",
        &[0, 255],
    ]);
    prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

fn is_content(content: &[u8]) -> bool {
    // What would be a boundary in truth, also together with what follows it.
    let text = [b"\r\n", content, b"\r\n--B--"].concat();
    let ends: Vec<_> = Finder::new("\r\n--B").find_iter(&text).collect();
    let is_boundary = |at: &usize| !matches!(after_boundary(&text[at + 5..]), Some(Err(NoBoundary)));
    ends.iter().filter(|at| is_boundary(at)).count() == 1
}

fn split(bytes: &[u8], at: &[prop::sample::Index]) -> Vec<Vec<u8>> {
    let mut ends: Vec<usize> = at.iter().map(|at| at.index(bytes.len() + 1)).collect();
    ends.extend([0, bytes.len()]);
    ends.sort_unstable();
    ends.windows(2).map(|pair| bytes[pair[0]..pair[1]].to_vec()).collect()
}

proptest! {
    #[test]
    fn any_parts_are_read_however_they_arrive(
        contents in prop::collection::vec(content().prop_filter("no boundary", |c| is_content(c)), 0..4),
        at in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut text = Vec::new();
        for (number, content) in contents.iter().enumerate() {
            text.extend_from_slice(format!("\r\n--B\r\nContent-Disposition: file; filename=\"{number}\"\r\n\r\n").as_bytes());
            text.extend_from_slice(content);
        }
        text.extend_from_slice(b"\r\n--B--\r\n");
        let (all, end) = read(parts_of(split(&text[2..], &at), &Limits::default()));
        prop_assert_eq!(end, Ok(()));
        let expected: Read = contents
            .iter()
            .enumerate()
            .map(|(number, content)| (part(&number.to_string(), PartKind::File), content.clone()))
            .collect();
        prop_assert_eq!(&all, &expected);

        // Cut off anywhere it is an error, and what was read before is right.
        let cut = cut.index(text.len() - 4);
        let (some, end) = read(parts_of(split(&text[2..cut.max(2)], &at), &Limits::default()));
        prop_assert_eq!(end.unwrap_err().status.as_u16(), 400);
        for (got, wanted) in some.iter().zip(&expected) {
            prop_assert_eq!(&got.0, &wanted.0);
            prop_assert!(wanted.1.starts_with(&got.1));
        }
    }

    #[test]
    fn nonsense_ends(text in "(--B|\r\n|:|x| |-|\"|%){0,40}", at in prop::collection::vec(any::<prop::sample::Index>(), 0..6)) {
        let _ = read(parts_of(split(text.as_bytes(), &at), &Limits::default()));
    }

    #[test]
    fn no_path_leads_outside(name in "([./%a\\\\]|%2F|%2e|%00){0,20}") {
        let text = format!("--B\r\nContent-Disposition: file; filename=\"{name}\"\r\n\r\n\r\n--B--");
        let (all, end) = read_text(&text);
        if let Err(refused) = end {
            // `%aa` alone is no text.
            prop_assert!(refused.message.contains("not UTF-8"), "{}", refused.message);
            return Ok(());
        }
        let path = &all[0].0.path;
        prop_assert!(!path.starts_with('/') && !path.ends_with('/'));
        prop_assert!(path.is_empty() || path.split('/').all(|segment| !matches!(segment, "" | "." | "..")));
    }
}
