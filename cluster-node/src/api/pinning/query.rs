//! What narrows a list.

use cluster_http::{Failure, Query};
use node_core::{Cid, Invalid, Namespace, PinningStatus};

use super::body::{check_name, read_metadata};
use super::failures::failure;
use crate::service::{Match, NameFilter, PINNING_PAGE_MAX, PinningFilter};

/// CIDs of one filter.
pub const CIDS_MAX: usize = 10;

/// Results of a page that names no limit.
pub const LIMIT_DEFAULT: usize = 10;

/// The filter of a list, and how many results are wanted of it. A parameter without a value counts as absent.
pub fn read(query: &Query, namespace: Namespace) -> Result<(PinningFilter, usize), Failure> {
    // One that was left out would make the list longer, and who empties what a list names would lose the rest.
    query.well_formed()?;
    let filter = PinningFilter {
        cids: cids(query)?,
        name: name(query)?,
        metadata: metadata(query)?,
        statuses: statuses(query)?,
        before: query.created("before")?,
        after: query.created("after")?,
        ..PinningFilter::of(namespace)
    };
    Ok((filter, limit(query)?))
}

fn refused(field: &str, value: &str, remedy: impl Into<String>) -> Failure {
    failure(Invalid::new(field, value, remedy).into())
}

/// The values between commas, also of a parameter that comes more than once. Commas alone are no values, and no wish for all.
fn values<'a>(query: &'a Query, key: &str) -> Result<Vec<&'a str>, Failure> {
    let values = query.all(key).flat_map(|text| text.split(','));
    let values: Vec<&str> = values.map(str::trim).filter(|value| !value.is_empty()).collect();
    match query.get(key).map(str::trim) {
        Some(text) if !text.is_empty() && values.is_empty() => {
            Err(refused(key, text, "give values with commas between them"))
        }
        _ => Ok(values),
    }
}

fn cids(query: &Query) -> Result<Vec<Cid>, Failure> {
    let given = values(query, "cid")?;
    let mut cids: Vec<Cid> = Vec::new();
    for text in &given {
        let cid = text
            .parse()
            .map_err(|error: node_core::CidError| failure(error.into()))?;
        if !cids.contains(&cid) {
            cids.push(cid);
        }
        if cids.len() > CIDS_MAX {
            let count = format!("{} CIDs", given.len());
            return Err(refused("cid", &count, format!("at most {CIDS_MAX} in one list")));
        }
    }
    Ok(cids)
}

fn name(query: &Query) -> Result<Option<NameFilter>, Failure> {
    let kind = match query.get("match") {
        None => Match::default(),
        Some(word) => {
            Match::parse(word).ok_or_else(|| refused("match", word, "use exact, iexact, partial or ipartial"))?
        }
    };
    let Some(name) = query.get("name") else {
        return Ok(None);
    };
    check_name("name", name)?;
    Ok(Some(NameFilter::new(kind, name)))
}

fn statuses(query: &Query) -> Result<Vec<PinningStatus>, Failure> {
    let given = values(query, "status")?;
    if given.is_empty() {
        return Ok(vec![PinningStatus::Pinned]);
    }
    let read = |word: &str| {
        PinningStatus::parse(word).ok_or_else(|| {
            refused(
                "status",
                word,
                "use queued, pinning, pinned and failed, with commas between them",
            )
        })
    };
    given.into_iter().map(read).collect()
}

fn limit(query: &Query) -> Result<usize, Failure> {
    let Some(text) = query.get("limit") else {
        return Ok(LIMIT_DEFAULT);
    };
    let limit = text.parse().ok().filter(|limit| (1..=PINNING_PAGE_MAX).contains(limit));
    limit.ok_or_else(|| refused("limit", text, format!("use a number from 1 to {PINNING_PAGE_MAX}")))
}

fn metadata(query: &Query) -> Result<std::collections::BTreeMap<String, String>, Failure> {
    let Some(text) = query.get("meta") else {
        return Ok(std::collections::BTreeMap::new());
    };
    let value = serde_json::from_str(text).map_err(|_| {
        refused(
            "meta",
            text,
            "it must be a JSON object of texts, such as {\"app\":\"x\"}",
        )
    })?;
    read_metadata("meta", Some(value))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const CID: &str = "bafkreifzjut3te7nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e";

    fn asked(query: &str) -> Result<(PinningFilter, usize), Failure> {
        read(&Query::parse(query), Namespace::default())
    }

    #[test]
    fn without_parameters_it_is_ten_of_what_is_pinned() {
        let (filter, limit) = asked("").expect("valid");
        assert_eq!(filter.statuses, [PinningStatus::Pinned]);
        assert_eq!(limit, 10);
        assert_eq!(
            asked("cid=&name=&status=&meta=&limit=&before=").expect("valid"),
            (filter, limit)
        );
    }

    #[test]
    fn all_parameters_are_read() {
        let query = format!(
            "cid={CID},{CID}&name=my+site&match=ipartial&status=queued,failed&before=2026-05-11T10:20:30.000000007Z\
             &after=2026-05-11T12:20:29%2B02:00&limit=1000&meta=%7B%22app%22%3A%22x%22%7D&unknown=1"
        );
        let (filter, limit) = asked(&query).expect("valid");
        assert_eq!(filter.cids, [CID.parse().expect("a CID")]);
        assert_eq!(filter.name, Some(NameFilter::new(Match::IPartial, "my site")));
        assert_eq!(filter.statuses, [PinningStatus::Queued, PinningStatus::Failed]);
        assert_eq!(filter.before.map(|at| at.as_nanos() % 1_000_000_000), Some(7));
        assert!(filter.after < filter.before);
        assert_eq!(filter.metadata, BTreeMap::from([("app".to_owned(), "x".to_owned())]));
        assert_eq!(limit, 1_000);
        // As some clients repeat a list.
        let repeated = asked("status=queued&status=pinned").expect("valid").0.statuses;
        assert_eq!(repeated, [PinningStatus::Queued, PinningStatus::Pinned]);
    }

    #[test]
    fn nonsense_is_refused_and_named() {
        let long = "a".repeat(256);
        let many: Vec<String> = (0..11)
            .map(|number| {
                let bytes = [&[1, 0x55, 0, 1][..], &[number]].concat();
                Cid::from_bytes(&bytes).expect("a CID").to_string()
            })
            .collect();
        for (query, words) in [
            ("cid=abcd".to_owned(), "abcd"),
            (format!("cid={}", many.join(",")), "at most 10"),
            (format!("name={long}"), "255"),
            ("match=some".to_owned(), "exact, iexact, partial or ipartial"),
            ("status=invalid".to_owned(), "\"invalid\""),
            ("status=pinned,Failed".to_owned(), "Failed"),
            ("before=yesterday".to_owned(), "before"),
            ("after=2026-05-11".to_owned(), "after"),
            ("limit=0".to_owned(), "limit"),
            ("limit=1001".to_owned(), "1001"),
            ("limit=-1".to_owned(), "limit"),
            ("limit=many".to_owned(), "many"),
            ("meta=x".to_owned(), "meta"),
            ("meta=[]".to_owned(), "meta"),
            ("meta={\"a\":1}".to_owned(), "meta.a"),
        ] {
            let failure = asked(&query).expect_err(&query);
            assert_eq!(failure.status.as_u16(), 400, "{query}");
            assert!(failure.message.contains(words), "{query}: {}", failure.message);
        }
        assert_eq!(
            asked(&format!("cid={}", many[..10].join(",")))
                .expect("valid")
                .0
                .cids
                .len(),
            10
        );
    }

    proptest! {
        #[test]
        fn no_query_does_harm(query in "((cid|name|match|status|before|after|limit|meta)=[ -~]{0,20}&){0,6}") {
            if let Err(failure) = asked(&query) {
                prop_assert_eq!(failure.status.as_u16(), 400);
            }
        }
    }
}
