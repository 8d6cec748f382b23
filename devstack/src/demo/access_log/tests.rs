use super::*;

fn line(request: &str, status: &str) -> String {
    format!(r#"203.0.113.7 - - [29/Nov/2026:00:00:00 +0000] "{request}" {status} 5 "-" "bot/1""#)
}

/// The target that is sent again.
fn target(request: &str) -> Result<String, Skip> {
    entry(&line(request, "200")).map(|entry| entry.target)
}

fn agent(rest: &str) -> Result<String, Skip> {
    let line = format!(r#"203.0.113.7 - - [29/Nov/2026:00:00:00 +0000] "GET / HTTP/1.1" 200{rest}"#);
    entry(&line).map(|entry| entry.user_agent)
}

#[test]
fn whole_and_cut_lines_are_read() {
    let whole = r#"83.149.9.216 - - [17/May/2015:10:05:03 +0000] "GET /a/b.png?q=1 HTTP/1.1" 404 203023 "http://x.org/" "Mozilla/5.0 (X11)""#;
    let read = entry(whole).unwrap();
    assert_eq!(read.address, "83.149.9.216".parse::<IpAddr>().unwrap());
    assert_eq!(
        (read.method.as_str(), read.target.as_str(), read.status),
        ("GET", "/a/b.png?q=1", 404)
    );
    assert_eq!(read.user_agent, "Mozilla/5.0 (X11)");
    assert_eq!(entry(&whole[..whole.len() - 6]).unwrap().user_agent, "Mozilla/5.0");
    assert_eq!(entry("-"), Err(Skip::Format));
    assert_eq!(entry(r#"::1 - - [t] "GET" 400 0 "-" "-""#), Err(Skip::NoRequest));
}

#[test]
fn every_form_of_a_target_is_sent_as_a_path_or_skipped() {
    for (request, expected) in [
        ("GET / HTTP/1.1", Ok("/")),
        ("GET /a//b/../c?x=/&y HTTP/1.1", Ok("/a//b/../c?x=/&y")),
        ("GET //host/a HTTP/1.1", Ok("//host/a")),
        ("GET /a#b HTTP/1.1", Ok("/a")),
        ("GET /a?u=http://x.org/ HTTP/1.1", Ok("/a?u=http://x.org/")),
        ("GET /old", Ok("/old")),
        ("get / HTTP/1.0", Ok("/")),
        ("PROPFIND / HTTP/1.1", Ok("/")),
        ("OPTIONS / HTTP/1.1", Ok("/")),
        // Absolute form: sent by clients of a proxy, and by probes.
        ("GET http://probe.example/ HTTP/1.1", Ok("/")),
        ("GET http://probe.example HTTP/1.1", Ok("/")),
        ("GET http://probe.example?q=1 HTTP/1.1", Ok("/?q=1")),
        ("GET https://user@probe.example:8443/a?b HTTP/1.1", Ok("/a?b")),
        ("GET http://[2001:db8::1]/a HTTP/1.1", Ok("/a")),
        // Authority form, asterisk form, and none.
        ("CONNECT probe.example:443 HTTP/1.1", Err(Skip::Tunnel)),
        ("CONNECT / HTTP/1.1", Err(Skip::Tunnel)),
        ("GET probe.example:443 HTTP/1.1", Err(Skip::NoPath)),
        ("OPTIONS * HTTP/1.1", Err(Skip::NoPath)),
        ("PRI * HTTP/2.0", Err(Skip::NoPath)),
        ("GET  HTTP/1.1", Err(Skip::Target)),
        ("GET /a b HTTP/1.1", Err(Skip::Target)),
        ("GET /a HTTP/1.1 HTTP/1.1", Err(Skip::Target)),
        ("GET ?q=1 HTTP/1.1", Err(Skip::Target)),
        ("GET /a|b\u{1} HTTP/1.1", Err(Skip::Target)),
        // No request.
        ("-", Err(Skip::NoRequest)),
        ("", Err(Skip::NoRequest)),
        ("GET", Err(Skip::NoRequest)),
        (r"\x16\x03\x01\x02", Err(Skip::NoRequest)),
        (r"\x16\x03 \x01\x02 a", Err(Skip::NoRequest)),
        // The gateway's own API.
        ("POST /v1/usage HTTP/1.1", Err(Skip::GatewayPath)),
        ("GET http://x.org/v1/authorize/a?b HTTP/1.1", Err(Skip::GatewayPath)),
        ("GET /v1/usages HTTP/1.1", Ok("/v1/usages")),
    ] {
        assert_eq!(target(request), expected.map(str::to_owned), "{request}");
    }
}

#[test]
fn only_a_status_that_ends_a_request_is_sent_again() {
    for status in ["200", "204", "304", "404", "499", "599", "600", "999"] {
        assert_eq!(
            entry(&line("GET / HTTP/1.1", status)).unwrap().status.to_string(),
            status
        );
    }
    for status in [
        "100", "101", "103", "199", "-", "0", "000", "099", "1000", "-200", "2xx", "",
    ] {
        assert_eq!(entry(&line("GET / HTTP/1.1", status)), Err(Skip::Status), "{status}");
    }
}

#[test]
fn a_client_is_an_address_in_any_form() {
    let client = |client: &str| {
        let line = format!(r#"{client} - - [t] "GET / HTTP/1.1" 200 0 "-" "x""#);
        entry(&line).map(|entry| entry.address.to_string())
    };
    for (written, read) in [
        ("203.0.113.7", "203.0.113.7"),
        ("2001:DB8::7", "2001:db8::7"),
        ("[2001:db8::7]", "2001:db8::7"),
        ("::1", "::1"),
        ("::", "::"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
    ] {
        assert_eq!(client(written).as_deref(), Ok(read));
    }
    for not_an_address in ["host.example", "fe80::1%eth0", "203.0.113", "203.0.113.7:80", "-"] {
        assert_eq!(client(not_an_address), Err(Skip::Client), "{not_an_address}");
    }
}

#[test]
fn a_user_agent_is_the_second_quoted_text_without_escapes() {
    for (rest, expected) in [
        (r#" 5 "-" "bot/1""#, Ok("bot/1")),
        (r#" 5 "a \"b\" c" "x \"y\" \\ z""#, Ok(r#"x "y" \ z"#)),
        (r#" 5 "-" "an "unescaped" quote""#, Ok(r#"an "unescaped"#)),
        (r#" 5 "-" "x" "203.0.113.9""#, Ok("x")),
        (r#" 5 "-" "cut "#, Ok("cut")),
        (r#" 5 "-" "" "#, Ok("")),
        (r#" 5 "" """#, Ok("")),
        (r#" - "-" "-""#, Ok("-")),
        (r#"  "-" "x""#, Ok("x")),
        (" 5 \"-\" \" \tx\t \"", Ok("x")),
        (" 5 \"-\" \"caf\u{e9}\"", Ok("caf\u{e9}")),
        (r#" 5 "-""#, Ok("")),
        (" 5", Ok("")),
        ("", Ok("")),
        (" 5 \"-\" \"a\u{1}b\"", Err(Skip::UserAgent)),
        (" 5 \"-\" \"a\u{7f}b\"", Err(Skip::UserAgent)),
    ] {
        assert_eq!(agent(rest), expected.map(str::to_owned), "{rest}");
    }
}

#[test]
fn every_line_is_an_entry_or_counted() {
    let log = [
        line("GET / HTTP/1.1", "200").as_bytes(),
        b"\r",
        b"",
        b"garbage",
        b"\xff\xfe\x00 \"",
        &line("GET / HTTP/1.1", "200").as_bytes()[..30],
        format!("{}\r", line("GET / HTTP/1.1", "101")).as_bytes(),
        b"203.0.113.7 - - [t] \"GET / HTTP/1.1\" 200 5 \"-\" \"\xff\"",
    ]
    .join(&b'\n');
    let log = read_lines(log.as_slice()).unwrap();
    assert_eq!(log.entries.len(), 2);
    assert_eq!(log.entries[1].user_agent, "\u{fffd}");
    assert_eq!(
        log.skipped,
        BTreeMap::from([(Skip::Empty, 2), (Skip::Format, 3), (Skip::Status, 1)])
    );
}

#[test]
fn a_line_cut_at_any_position_is_read_or_skipped() {
    let whole = line(r#"GET http://x.org/\"a\"?b HTTP/1.1"#, "200");
    for end in 0..=whole.len() {
        let cut = entry(&whole[..end]);
        assert_eq!(cut.is_ok(), end >= whole.find(" 5 ").unwrap(), "{}", &whole[..end]);
    }
}
