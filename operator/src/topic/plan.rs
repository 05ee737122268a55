//! What to do in the broker for a Topic. Pure: compares what is wanted with the view.

use super::validate::{OWNER, ValidTopic};
use crate::{
    broker::{
        api::Config,
        overlay::{Difference, overlay},
        view::StreamEntry,
    },
    engine::Error,
    leftovers::mark,
};

/// One call, or none.
#[derive(Debug, PartialEq)]
pub enum Plan {
    Create(Config),
    /// A Topic of the same name has left it, and wanted it gone.
    Replace(Config),
    Update {
        config: Config,
        differences: Vec<Difference>,
    },
    Nothing,
    /// Not managed, and there it is.
    Observe,
    /// Not managed, and there is none.
    Missing,
    /// A stream of this name belongs to somebody else.
    Conflict,
}

pub fn make(topic: &ValidTopic) -> Result<Plan, Error> {
    let view = topic.broker.view();
    let found = view.stream(&topic.stream).map(StreamEntry::config).transpose();
    let found = found.map_err(Error::broker("read the stream's configuration"))?;
    Ok(decide(found.as_ref(), &topic.config, topic.managed, topic.programmed_before))
}

fn decide(found: Option<&Config>, wanted: &Config, managed: bool, programmed_before: bool) -> Plan {
    let Some(found) = found else {
        return if managed { Plan::Create(wanted.clone()) } else { Plan::Missing };
    };
    if !managed {
        return Plan::Observe;
    }
    if !programmed_before && !is_ours(found) {
        return Plan::Conflict;
    }
    if mark::is_of_predecessor(found, wanted) {
        return Plan::Replace(wanted.clone());
    }
    let result = overlay(found, wanted);
    if result.differences.is_empty() {
        Plan::Nothing
    } else {
        Plan::Update { config: result.merged, differences: result.differences }
    }
}

/// The stream carries the mark of a Topic. Its name is made from namespace and name, so it can only be this Topic's,
/// or that of an earlier one of the same name whose events were kept.
fn is_ours(found: &Config) -> bool {
    found.get("metadata").and_then(|metadata| metadata.get(OWNER)).is_some()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::broker::api::object;

    fn wanted() -> Config {
        object(json!({"name": "shop_accounts", "max_age": 5, "metadata": {OWNER: "shop/accounts"}}))
    }

    #[test]
    fn creates_what_is_missing() {
        assert_eq!(decide(None, &wanted(), true, true), Plan::Create(wanted()));
    }

    #[test]
    fn leaves_what_is_right() {
        assert_eq!(decide(Some(&wanted()), &wanted(), true, true), Plan::Nothing);
    }

    #[test]
    fn puts_back_what_was_edited() {
        let mut found = wanted();
        found.insert("max_age".into(), json!(7));
        let Plan::Update { config, differences } = decide(Some(&found), &wanted(), true, false) else {
            panic!("an update is needed")
        };
        assert_eq!((config["max_age"].clone(), differences.len()), (json!(5), 1));
    }

    #[test]
    fn what_a_deleted_topic_of_the_name_wanted_gone_is_not_taken_over() {
        let marked = |uid: &str, when_gone: &str| {
            let mut config = wanted();
            let marks = [("object-uid", uid), ("mesh-uid", "m"), ("when-gone", when_gone)];
            for (key, value) in marks {
                config["metadata"][format!("eventmesh.dev/{key}")] = json!(value);
            }
            config
        };
        let wanted = marked("new", "Delete");
        assert_eq!(decide(Some(&marked("old", "Delete")), &wanted, true, false), Plan::Replace(wanted.clone()));
        assert!(matches!(decide(Some(&marked("old", "Retain")), &wanted, true, false), Plan::Update { .. }));
    }

    #[test]
    fn does_not_touch_a_foreign_stream() {
        let found = object(json!({"name": "shop_accounts", "max_age": 7}));
        assert_eq!(decide(Some(&found), &wanted(), true, false), Plan::Conflict);
        assert!(
            matches!(decide(Some(&found), &wanted(), true, true), Plan::Update { .. }),
            "ours, with its mark removed"
        );
    }

    #[test]
    fn reports_and_never_changes_what_is_not_managed() {
        let found = object(json!({"name": "shop_accounts", "max_age": 7}));
        assert_eq!(decide(Some(&found), &wanted(), false, false), Plan::Observe);
        assert_eq!(decide(None, &wanted(), false, false), Plan::Missing);
    }
}
