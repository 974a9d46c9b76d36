//! What the DHT keeps in this node.
//!
//! libp2p's own store keeps at most 1,024 keys, those that this node provides among them, and takes any value from anybody.
//! A node with a million pins provides a million keys, so here the two are apart, and what this node provides is kept as
//! an answer to others only: announcing is done once per call, and again when the caller says so.

use std::borrow::Cow;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use libp2p::PeerId;
use libp2p::kad::store::{Error, RecordStore, Result};
use libp2p::kad::{ProviderRecord, Record, RecordKey};

/// Provider records that are kept for others, at most. About 0.5 KiB each. A DHT server among ten thousand others sees a
/// 500th of all records.
const RECORDS_MAX: usize = 65_536;

/// Providers of one key; the replication of the DHT, and what libp2p's store keeps.
const PROVIDERS_PER_KEY: usize = 20;

/// Addresses of one provider. Peers with more exist, but nobody dials them all.
const ADDRESSES_MAX: usize = 8;

/// Longest key, in bytes: a multihash of 64 bytes with room to spare.
const KEY_BYTES_MAX: usize = 80;

/// Own keys that others are told about when they ask this node itself. About 0.2 KiB each. What is beyond is forgotten,
/// the oldest first; the DHT still knows it from those who were told.
const OWN_MAX: usize = 65_536;

/// How long an own key is told. The lifetime of a provider record (specs of libp2p, kad-dht).
pub(crate) const RECORD_LIFE: Duration = Duration::from_secs(48 * 3600);

/// The provider records that this node keeps, in memory. They are lost with it, as is usual: who provides says so again.
#[derive(Debug)]
pub(crate) struct Records {
    local: PeerId,
    providers: HashMap<RecordKey, Vec<ProviderRecord>>,
    count: usize,
    own: HashMap<RecordKey, Instant>,
    /// The keys of `own`, the oldest first. One that was provided again stands in it twice; only the last one counts.
    order: VecDeque<(Instant, RecordKey)>,
}

impl Records {
    pub(crate) fn new(local: PeerId) -> Self {
        Self {
            local,
            providers: HashMap::new(),
            count: 0,
            own: HashMap::new(),
            order: VecDeque::new(),
        }
    }

    /// Drops what has expired. To be called every few minutes.
    pub(crate) fn sweep(&mut self, now: Instant) {
        self.providers.retain(|_, providers| {
            providers.retain(|record| !record.is_expired(now));
            !providers.is_empty()
        });
        self.count = self.providers.values().map(Vec::len).sum();
        self.trim_own(now);
    }

    fn provide(&mut self, key: RecordKey, now: Instant) {
        self.own.insert(key.clone(), now);
        self.order.push_back((now, key));
        self.trim_own(now);
    }

    fn trim_own(&mut self, now: Instant) {
        while let Some((at, key)) = self.order.front() {
            let current = self.own.get(key) == Some(at);
            let expired = now.saturating_duration_since(*at) > RECORD_LIFE;
            if current && !expired && self.order.len() <= OWN_MAX {
                break;
            }
            if current {
                self.own.remove(key);
            }
            self.order.pop_front();
        }
    }
}

impl RecordStore for Records {
    type RecordsIter<'a> = std::iter::Empty<Cow<'a, Record>>;
    type ProvidedIter<'a> = std::iter::Empty<Cow<'a, ProviderRecord>>;

    fn get(&self, _: &RecordKey) -> Option<Cow<'_, Record>> {
        None
    }

    /// Values (IPNS, public keys) are not kept: what is not validated can't be told from rubbish.
    fn put(&mut self, _: Record) -> Result<()> {
        Err(Error::MaxRecords)
    }

    fn remove(&mut self, _: &RecordKey) {}

    fn records(&self) -> Self::RecordsIter<'_> {
        std::iter::empty()
    }

    fn add_provider(&mut self, mut record: ProviderRecord) -> Result<()> {
        if record.provider == self.local {
            self.provide(record.key, Instant::now());
            return Ok(());
        }
        if record.key.as_ref().len() > KEY_BYTES_MAX {
            return Err(Error::ValueTooLarge);
        }
        record.addresses.truncate(ADDRESSES_MAX);
        record.addresses.shrink_to_fit();
        let full = self.count >= RECORDS_MAX;
        let providers = match self.providers.entry(record.key.clone()) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(_) if full => return Err(Error::MaxProvidedKeys),
            Entry::Vacant(entry) => entry.insert(Vec::new()),
        };
        if let Some(known) = providers.iter_mut().find(|known| known.provider == record.provider) {
            *known = record;
        } else if providers.len() < PROVIDERS_PER_KEY && !full {
            providers.push(record);
            self.count += 1;
        }
        Ok(())
    }

    fn providers(&self, key: &RecordKey) -> Vec<ProviderRecord> {
        let mut providers = self.providers.get(key).cloned().unwrap_or_default();
        if self.own.contains_key(key) {
            // Without addresses: the behaviour adds those that this node has when it is asked.
            providers.push(ProviderRecord::new(key.clone(), self.local, Vec::new()));
        }
        providers
    }

    /// None, so that libp2p starts no rounds of its own.
    fn provided(&self) -> Self::ProvidedIter<'_> {
        std::iter::empty()
    }

    fn remove_provider(&mut self, key: &RecordKey, provider: &PeerId) {
        if *provider == self.local {
            self.own.remove(key);
            return;
        }
        if let Entry::Occupied(mut entry) = self.providers.entry(key.clone()) {
            let providers = entry.get_mut();
            let before = providers.len();
            providers.retain(|record| record.provider != *provider);
            self.count -= before - providers.len();
            if providers.is_empty() {
                entry.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u32) -> RecordKey {
        RecordKey::new(&number.to_be_bytes())
    }

    #[test]
    fn more_can_be_provided_than_libp2p_keeps() {
        let local = PeerId::random();
        let mut records = Records::new(local);
        for number in 0..OWN_MAX as u32 + 10 {
            records
                .add_provider(ProviderRecord::new(key(number), local, Vec::new()))
                .expect("taken");
        }
        assert!(records.providers(&key(9)).is_empty(), "the oldest is forgotten");
        assert_eq!(records.providers(&key(10))[0].provider, local);
        assert_eq!(records.order.len(), OWN_MAX);
        assert_eq!(records.own.len(), OWN_MAX);
        assert_eq!(records.provided().count(), 0);
        let late = Instant::now() + RECORD_LIFE + Duration::from_secs(1);
        records.sweep(late);
        assert!(records.own.is_empty() && records.order.is_empty());
    }

    #[test]
    fn a_key_that_is_provided_again_and_again_takes_one_place() {
        let local = PeerId::random();
        let mut records = Records::new(local);
        for _ in 0..3 * OWN_MAX {
            records
                .add_provider(ProviderRecord::new(key(1), local, Vec::new()))
                .expect("taken");
        }
        assert!(records.order.len() <= OWN_MAX);
        assert_eq!(records.providers(&key(1)).len(), 1);
        records.remove_provider(&key(1), &local);
        assert!(records.providers(&key(1)).is_empty());
    }

    #[test]
    fn what_is_kept_for_others_is_bounded() {
        let mut records = Records::new(PeerId::random());
        let address: multiaddr::Multiaddr = "/ip4/10.0.0.1/tcp/4001".parse().expect("valid");
        for _ in 0..30 {
            let record = ProviderRecord::new(key(1), PeerId::random(), vec![address.clone(); 20]);
            records.add_provider(record).expect("taken or ignored");
        }
        let kept = records.providers(&key(1));
        assert_eq!(kept.len(), PROVIDERS_PER_KEY);
        assert!(kept.iter().all(|record| record.addresses.len() == ADDRESSES_MAX));
        for number in 0..RECORDS_MAX as u32 {
            let _ = records.add_provider(ProviderRecord::new(key(number), PeerId::random(), Vec::new()));
        }
        assert!(records.count <= RECORDS_MAX);
        let refused = records.add_provider(ProviderRecord::new(key(u32::MAX), PeerId::random(), Vec::new()));
        assert!(refused.is_err());
        let long = RecordKey::new(&[1; KEY_BYTES_MAX + 1]);
        assert!(
            records
                .add_provider(ProviderRecord::new(long, PeerId::random(), Vec::new()))
                .is_err()
        );
        records.sweep(Instant::now() + RECORD_LIFE + Duration::from_secs(1));
        // Records that others made bear their own expiry; those here have none and stay.
        assert_eq!(records.count, records.providers.values().map(Vec::len).sum::<usize>());
        let value = Record::new(key(1), vec![1]);
        assert!(records.put(value).is_err());
    }
}
