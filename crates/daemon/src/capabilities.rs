//! `--print-capabilities`: what management layers ask a vhost-user back-end
//! before they use it (QEMU's docs/interop/vhost-user.json).

/// The answer. libvirt migrates a VM with the device only where
/// `migrate-precopy` is listed, and passes single options rather than one `-o`
/// string where `separate-options` is. The negotiation modes say that `--posix-acl`
/// and `--security-label` take never, auto and always.
pub fn json() -> String {
    serde_json::json!({
        "type": "fs",
        "features": [
            "migrate-precopy",
            "posix-acl-negotiation-mode",
            "security-label-negotiation-mode",
            "separate-options",
        ],
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    #[test]
    fn libvirt_finds_what_it_gates_on() {
        let v: serde_json::Value = serde_json::from_str(&super::json()).unwrap();
        assert_eq!(v["type"], "fs");
        for f in [
            "migrate-precopy",
            "posix-acl-negotiation-mode",
            "security-label-negotiation-mode",
            "separate-options",
        ] {
            assert!(v["features"].as_array().unwrap().iter().any(|x| x == f));
        }
    }
}
