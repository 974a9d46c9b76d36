//! What the leader adds to an operation before it is proposed: the factors and the nodes.

use node_core::command::{Op, Plan, Refusal, RefusalKind, Request};
use node_core::pinset::{self, KvError, KvRead, Step, Table};
use node_core::{PinKey, PinOptions};

use super::driver::Driver;
use crate::service::fleet::{NOTHING_KNOWN, Wish};

impl Driver {
    /// Fills in what only the leader decides. The inner error is a refusal that needs no entry.
    pub(super) fn planned(&self, request: &Request) -> Result<Result<Request, Refusal>, KvError> {
        let state = self.state.current();
        let kv: &dyn KvRead = &*state;
        let op = match &request.op {
            Op::PutPin {
                key,
                options,
                plan,
                from,
                unpin_from,
                created,
            } => {
                let mut options = options.clone();
                options.replication = match options.replication.resolve(self.shared.settings().replication) {
                    Ok(replication) => replication,
                    Err(invalid) => return Ok(Err(Refusal::new(RefusalKind::Invalid, invalid.to_string()))),
                };
                let plan = match self.plan(kv, key, &options, plan, from.as_ref())? {
                    Ok(plan) => plan,
                    Err(refusal) => match self.known_anyway(kv, request, key, &options)? {
                        Some(plan) => plan,
                        None => return Ok(Err(refusal)),
                    },
                };
                Op::PutPin {
                    key: key.clone(),
                    options,
                    plan,
                    from: from.clone(),
                    unpin_from: *unpin_from,
                    created: *created,
                }
            }
            other => other.clone(),
        };
        Ok(Ok(Request {
            id: request.id.clone(),
            op,
        }))
    }

    /// What the caller put into the plan are wishes: the nodes that hold the content already, and whether a pin that can't
    /// be placed is to be recorded.
    fn plan(
        &self,
        kv: &dyn KvRead,
        key: &PinKey,
        options: &PinOptions,
        wished: &Plan,
        from: Option<&PinKey>,
    ) -> Result<Result<Plan, Refusal>, KvError> {
        let placement = pinset::placement(kv, &key.cid)?;
        // Without a placement there is no pin of the CID, and the most frequent case costs no further look.
        let step = if placement.is_some() && pinset::pin(kv, key)?.is_some() {
            Step::Replace(key, options)
        } else {
            Step::Add(options)
        };
        let demand = pinset::demand(kv, &key.cid, placement.as_ref(), step)?;
        let mut preferred = options.nodes.clone();
        preferred.extend(&wished.nodes);
        if let Some(from) = from {
            // Where the old content is, most of the new one's blocks are.
            let source = pinset::placement(kv, &from.cid)?;
            preferred.extend(source.map(|source| source.nodes).unwrap_or_default());
        }
        let settings = self.shared.settings();
        let wish = Wish {
            cid: &key.cid,
            replication: demand.replication,
            placement: placement.as_ref(),
            preferred: &preferred,
            spread_by: &settings.spread_by,
            allow_unplaced: wished.unplaced.is_some(),
            // Asking the ledgers would hold every pin up; who is to let go does so when the settling loop has asked.
            holds: NOTHING_KNOWN,
        };
        Ok(self.fleet.plan(&self.shared.names(), &wish))
    }

    /// What can't be placed now may have been recorded before: the same pin, or the same request. Then the entry only
    /// confirms it.
    fn known_anyway(
        &self,
        kv: &dyn KvRead,
        request: &Request,
        key: &PinKey,
        options: &PinOptions,
    ) -> Result<Option<Plan>, KvError> {
        let repeated = match &request.id {
            Some(id) => kv.get(Table::Requests, id.as_str().as_bytes())?.is_some(),
            None => false,
        };
        let same = pinset::pin(kv, key)?.is_some_and(|pin| pin.options == *options);
        if !repeated && !same {
            return Ok(None);
        }
        let placement = pinset::placement(kv, &key.cid)?;
        Ok(Some(placement.map_or_else(Plan::default, |placement| Plan {
            based_on: placement.revision,
            nodes: placement.nodes,
            unplaced: placement.unplaced,
        })))
    }
}
