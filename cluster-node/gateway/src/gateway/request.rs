//! What a request asks for.

use cluster_content::Scope;
use http::StatusCode;
use node_core::Cid;
use percent_encoding::percent_decode_str;

use super::answer::Refusal;

pub(super) const RAW_TYPE: &str = "application/vnd.ipld.raw";
pub(super) const CAR_TYPE: &str = "application/vnd.ipld.car";

const FORMATS: &str = "this gateway gives verifiable content only: ask for ?format=raw or ?format=car, or say \
                       \"Accept: application/vnd.ipld.raw\" or \"Accept: application/vnd.ipld.car\"";

/// Content in the form that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// One block.
    Raw,
    /// A CAR file.
    Car(CarShape),
}

/// What is to be in a CAR file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CarShape {
    pub(super) scope: Scope,
    /// Whether the scope is a range of a file that the client named.
    pub(super) ranged: bool,
    pub(super) duplicates: bool,
}

/// A request, parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) root: Cid,
    /// Names below the root, with `/` between them; any bytes.
    pub(super) path: Vec<u8>,
    pub(super) format: Format,
    /// Whether the URL alone tells the format, so that a cache can tell the answers apart.
    pub(super) format_in_url: bool,
    /// Whether `dups=y` of the `Accept` header, and not the URL, has duplicates come.
    pub(super) duplicates_in_accept: bool,
    pub(super) filename: Option<String>,
}

fn bad(words: impl Into<String>) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, words)
}

impl Wanted {
    /// `path` is that of the URL; `accept` all headers of that name, joined by commas.
    pub(super) fn parse(path: &str, query: &[(String, String)], accept: Option<&str>) -> Result<Self, Refusal> {
        let rest = path.strip_prefix("/ipfs/").unwrap_or_default();
        let (cid, names) = rest.split_once('/').unwrap_or((rest, ""));
        let root: Cid = percent_decode_str(cid)
            .decode_utf8()
            .map_err(|_| bad("the CID is no text"))?
            .parse()
            .map_err(|error: node_core::CidError| bad(error.to_string()))?;
        let path = decode_names(names)?;
        let value = |name: &str| {
            query
                .iter()
                .find(|(key, _)| key == name)
                .map(|(_, value)| value.as_str())
        };
        let offers = accept.map(offers).unwrap_or_default();
        let (kind, in_accept) = match value("format") {
            Some("raw") => (RAW_TYPE, None),
            Some("car") => (CAR_TYPE, offers.iter().find(|offer| offer.kind == CAR_TYPE)),
            Some(other) => {
                let other: String = other.chars().take(40).collect();
                return Err(Refusal::new(
                    StatusCode::NOT_ACCEPTABLE,
                    format!("there is no format {other:?} here; {FORMATS}"),
                ));
            }
            None => {
                let offer = best(&offers, accept)?;
                (if offer.kind == RAW_TYPE { RAW_TYPE } else { CAR_TYPE }, Some(offer))
            }
        };
        let format = match kind {
            RAW_TYPE if path.is_empty() => Format::Raw,
            RAW_TYPE => {
                return Err(bad(
                    "a raw block is asked for by its CID alone: a path would have to be taken on trust; ask for \
                     ?format=car, or resolve the path yourself",
                ));
            }
            _ => Format::Car(car_shape(&value, in_accept)?),
        };
        let has_duplicates = matches!(format, Format::Car(shape) if shape.duplicates);
        Ok(Self {
            root,
            path,
            format,
            duplicates_in_accept: has_duplicates && value("car-dups").is_none(),
            format_in_url: value("format").is_some(),
            filename: value("filename").map(str::to_owned).filter(|name| !name.is_empty()),
        })
    }
}

/// Names of a path, each decoded: a `%2F` is no separator, and no name can hold one.
fn decode_names(names: &str) -> Result<Vec<u8>, Refusal> {
    let mut path: Vec<u8> = Vec::new();
    for name in names.split('/').filter(|name| !name.is_empty()) {
        let name: Vec<u8> = percent_decode_str(name).collect();
        if name.contains(&b'/') {
            return Err(bad("a name in the path holds a slash, which no name can"));
        }
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(&name);
    }
    Ok(path)
}

/// A media range of an `Accept` header.
struct Offer {
    kind: String,
    parameters: Vec<(String, String)>,
    /// Thousandths.
    weight: u16,
}

impl Offer {
    fn parameter(&self, name: &str) -> Option<&str> {
        let found = self.parameters.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }

    fn is_possible(&self) -> bool {
        match self.kind.as_str() {
            RAW_TYPE => true,
            CAR_TYPE => {
                matches!(self.parameter("version"), None | Some("1"))
                    && matches!(self.parameter("order"), None | Some("" | "dfs" | "unk"))
                    && matches!(self.parameter("dups"), None | Some("y" | "n"))
            }
            _ => false,
        }
    }
}

fn offers(accept: &str) -> Vec<Offer> {
    let parse = |range: &str| {
        let mut parts = range.split(';').map(str::trim);
        let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
        let mut offer = Offer {
            kind,
            parameters: Vec::new(),
            weight: 1000,
        };
        for (key, value) in parts.filter_map(|part| part.split_once('=')) {
            let (key, value) = (key.trim().to_ascii_lowercase(), value.trim().trim_matches('"'));
            match key.as_str() {
                "q" => {
                    offer.weight = value
                        .parse::<f32>()
                        .map_or(0, |weight| (weight.clamp(0.0, 1.0) * 1000.0) as u16)
                }
                _ => offer.parameters.push((key, value.to_ascii_lowercase())),
            }
        }
        offer
    };
    accept
        .split(',')
        .map(parse)
        .filter(|offer| !offer.kind.is_empty())
        .collect()
}

/// What the client likes best of what there is.
fn best<'a>(offers: &'a [Offer], accept: Option<&str>) -> Result<&'a Offer, Refusal> {
    let mut possible: Vec<&Offer> = offers
        .iter()
        .filter(|offer| offer.weight > 0 && offer.is_possible())
        .collect();
    // Stable: of what is liked equally, the first.
    possible.sort_by_key(|offer| std::cmp::Reverse(offer.weight));
    if let Some(offer) = possible.first() {
        return Ok(offer);
    }
    if offers.iter().all(|offer| offer.kind == "*/*") {
        return Err(bad(format!(
            "the request does not say in which form it wants the content; {FORMATS}"
        )));
    }
    let accept: String = accept.unwrap_or_default().chars().take(200).collect();
    Err(Refusal::new(
        StatusCode::NOT_ACCEPTABLE,
        format!("nothing of {accept:?} is to be had; {FORMATS}; CAR files are of version=1 and order=dfs"),
    ))
}

fn car_shape<'a>(value: &impl Fn(&str) -> Option<&'a str>, accepted: Option<&Offer>) -> Result<CarShape, Refusal> {
    let of = |in_url: &'static str, in_accept: &str| {
        value(in_url).or_else(|| accepted.and_then(|offer| offer.parameter(in_accept)))
    };
    match of("car-version", "version") {
        None | Some("1") => {}
        Some(_) => {
            return Err(bad(
                "CAR files are to be had in version 1 only: leave car-version out, or say 1",
            ));
        }
    }
    match of("car-order", "order") {
        None | Some("" | "dfs" | "unk") => {}
        Some(_) => return Err(bad("blocks come depth first: leave car-order out, or say dfs or unk")),
    }
    let duplicates = match of("car-dups", "dups") {
        None | Some("n") => false,
        Some("y") => true,
        Some(_) => return Err(bad("car-dups is y or n")),
    };
    let range = value("entity-bytes").map(entity_bytes).transpose()?;
    let whole = Scope::Entity { from: 0, to: None };
    let scope = match (value("dag-scope"), range) {
        (None | Some("entity"), Some((from, to))) => Scope::Entity { from, to },
        (None | Some("all"), None) => Scope::All,
        (Some("block"), None) => Scope::Block,
        (Some("entity"), None) => whole,
        (Some("all" | "block"), Some(_)) => {
            return Err(bad(
                "entity-bytes is of use with dag-scope=entity only: leave one of the two out",
            ));
        }
        (Some(_), _) => return Err(bad("dag-scope is block, entity or all")),
    };
    Ok(CarShape {
        scope,
        ranged: range.is_some(),
        // Of a file that is read each block comes once.
        duplicates: duplicates && scope == Scope::All,
    })
}

/// `from:to`, both inclusive, from the end when negative, `*` for the end.
fn entity_bytes(text: &str) -> Result<(i64, Option<i64>), Refusal> {
    let refused = || bad("entity-bytes is FROM:TO: whole numbers, negative ones count from the end, and TO may be *");
    let (from, to) = text.split_once(':').ok_or_else(refused)?;
    let from = from.parse().map_err(|_| refused())?;
    let to = match to {
        "*" => None,
        to => Some(to.parse().map_err(|_| refused())?),
    };
    Ok((from, to))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CID: &str = "bafkreifzjut3te7nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e";

    fn parse(url: &str, accept: Option<&str>) -> Result<Wanted, (u16, String)> {
        let (path, query) = url.split_once('?').unwrap_or((url, ""));
        let query: Vec<(String, String)> = query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        Wanted::parse(&format!("/ipfs/{path}"), &query, accept)
            .map_err(|refusal| (refusal.status.as_u16(), refusal.words))
    }

    fn shape(url: &str, accept: Option<&str>) -> CarShape {
        match parse(url, accept).expect(url).format {
            Format::Car(shape) => shape,
            Format::Raw => panic!("{url} asks for a CAR file"),
        }
    }

    #[test]
    fn the_format_is_found_in_url_and_header() {
        let format = |url: &str, accept| parse(url, accept).map(|wanted| wanted.format == Format::Raw);
        for (url, accept, raw) in [
            ("?format=raw", None, true),
            ("?format=car", None, false),
            ("?format=car", Some(RAW_TYPE), false),
            ("", Some(RAW_TYPE), true),
            ("", Some("text/html, application/vnd.ipld.car;version=1"), false),
            (
                "",
                Some("application/vnd.ipld.car;q=0.5, application/vnd.ipld.raw;q=0.6"),
                true,
            ),
            (
                "",
                Some("application/vnd.ipld.car;version=2, application/vnd.ipld.raw;q=0.1"),
                true,
            ),
            (
                "",
                Some("application/vnd.ipld.raw;q=0, application/vnd.ipld.car;q=0.1, */*"),
                false,
            ),
        ] {
            assert_eq!(format(&format!("{CID}{url}"), accept), Ok(raw), "{url} {accept:?}");
        }
        for (url, accept, status) in [
            ("", None, 400),
            ("", Some("*/*"), 400),
            ("", Some("text/html,application/xhtml+xml,*/*;q=0.8"), 406),
            ("", Some("application/vnd.ipld.car;version=2"), 406),
            ("", Some("application/vnd.ipld.car;order=foo"), 406),
            ("", Some("application/x-tar"), 406),
            ("?format=tar", None, 406),
            ("?format=dag-json", None, 406),
            ("/path?format=raw", None, 400),
            ("?format=car&car-version=2", None, 400),
            ("?format=car&car-order=bfs", None, 400),
            ("?format=car&car-dups=maybe", None, 400),
            ("?format=car&dag-scope=some", None, 400),
            ("?format=car&dag-scope=block&entity-bytes=0:5", None, 400),
            ("?format=car&entity-bytes=5", None, 400),
            ("?format=car&entity-bytes=*:5", None, 400),
            ("/a%2Fb?format=car", None, 400),
        ] {
            let refused = format(&format!("{CID}{url}"), accept).expect_err(url);
            assert_eq!(refused.0, status, "{url} {accept:?}: {}", refused.1);
        }
        assert_eq!(parse("notacid?format=raw", None).expect_err("no CID").0, 400);
    }

    #[test]
    fn the_shape_of_a_car_file_is_found() {
        let all = CarShape {
            scope: Scope::All,
            ranged: false,
            duplicates: false,
        };
        let car = |query: &str, accept| shape(&format!("{CID}?format=car{query}"), accept);
        assert_eq!(car("", None), all);
        assert_eq!(car("&dag-scope=block", None).scope, Scope::Block);
        assert_eq!(
            car("&dag-scope=entity", None).scope,
            Scope::Entity { from: 0, to: None }
        );
        let ranged = car("&entity-bytes=-5:*", None);
        assert_eq!(
            (ranged.scope, ranged.ranged),
            (Scope::Entity { from: -5, to: None }, true)
        );
        assert_eq!(
            car("&dag-scope=entity&entity-bytes=499:-1000", None).scope,
            Scope::Entity {
                from: 499,
                to: Some(-1000)
            }
        );
        let accept = Some("application/vnd.ipld.car; order=dfs; dups=y");
        assert!(car("", accept).duplicates);
        assert!(!car("&car-dups=n", accept).duplicates);
        assert!(shape(CID, accept).duplicates);
        let path = parse(&format!("{CID}//a%20b/%ff/?format=car"), None)
            .expect("a path")
            .path;
        assert_eq!(path, b"a b/\xff");
    }
}
