//! Tests of the selection of controllers, and the scripted API that the controllers' own tests share.

pub(super) mod script;

use super::{CONTROLLERS, select};
use std::collections::BTreeSet;

#[test]
fn controllers_are_selected_as_kube_controller_manager_does() {
    let all: Vec<&str> = CONTROLLERS.iter().map(|c| c.name).collect();
    let without = |name: &str| all.iter().copied().filter(|n| *n != name).collect::<Vec<_>>();
    let account = "serviceaccount-controller";
    for (spec, expected) in [
        ("*", all.clone()),
        ("", vec![]),
        ("-*", vec![]),
        ("serviceaccount-controller", vec![account]),
        ("serviceaccount", vec![account]),
        ("*,-serviceaccount", without(account)),
        ("-serviceaccount,*", without(account)),
        ("-serviceaccount-controller", without(account)),
        ("-*,serviceaccount", vec![account]),
        (" serviceaccount , root-ca-cert-publisher", vec![account, "root-ca-certificate-publisher-controller"]),
        // The first mention counts.
        ("serviceaccount,-serviceaccount", vec![account]),
        ("-serviceaccount,serviceaccount", vec![]),
    ] {
        let selected: BTreeSet<_> = select(spec).unwrap().into_iter().collect();
        assert_eq!(selected, expected.into_iter().collect(), "{spec:?}");
    }
}

#[test]
fn an_unknown_controller_is_refused_with_the_nearest() {
    assert_eq!(
        select("*,-servicacount").unwrap_err(),
        r#""servicacount" is not a controller; did you mean "serviceaccount"?"#
    );
    assert!(select("xyz").unwrap_err().starts_with(r#""xyz" is not a controller; there are "#));
}
