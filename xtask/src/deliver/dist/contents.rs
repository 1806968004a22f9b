// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is inside, as a `CycloneDX` list.

use anyhow::Result;
use auditable_serde::{DependencyKind, Package, Source};
use serde_json::{Value, json};

use crate::build::provenance;
use crate::ground::arch;
use crate::ground::workspace::Workspace;

/// The crates that the two programs are made of, for every architecture together.
pub fn list(workspace: &Workspace, version: &str) -> Result<String> {
    let mut components: Vec<Value> = Vec::new();
    let mut edges: Vec<Value> = Vec::new();
    for (program, feature) in [("vfio-override-early", "early"), ("vfio-override", "host")] {
        let mut needed: Vec<String> = Vec::new();
        for arch in arch::ALL {
            let made_of = provenance::of(workspace, feature, arch.musl.triple)?;
            let runtime =
                |package: &&Package| package.kind == DependencyKind::Runtime && !package.root;
            for package in made_of.packages.iter().filter(runtime) {
                let component = component(package);
                needed.push(reference(package));
                if !components.contains(&component) {
                    components.push(component);
                }
            }
        }
        needed.sort();
        needed.dedup();
        components.push(json!({
            "type": "application", "bom-ref": program, "name": program, "version": version,
        }));
        edges.push(json!({ "ref": program, "dependsOn": needed }));
    }
    components.sort_by_key(|component| component["bom-ref"].to_string());
    let list = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": { "component": {
            "type": "application", "bom-ref": "release", "name": "vfio-override release", "version": version,
            "licenses": [{ "expression": "MIT OR Apache-2.0" }],
        } },
        "components": components,
        "dependencies": edges,
    });
    Ok(serde_json::to_string_pretty(&list)? + "\n")
}

fn reference(package: &Package) -> String {
    format!("pkg:cargo/{}@{}", package.name, package.version)
}

fn component(package: &Package) -> Value {
    let mut component = json!({
        "type": "library",
        "bom-ref": reference(package),
        "name": package.name,
        "version": package.version.to_string(),
    });
    if package.source == Source::CratesIo {
        component["purl"] = reference(package).into();
    }
    component
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_names_what_each_program_is_made_of() -> Result<()> {
        let text = list(&Workspace::locate()?, "1.2.3")?;
        let list: Value = serde_json::from_str(&text)?;
        let needs = |program: &str, needed: &str| {
            let edges = list["dependencies"].as_array().into_iter().flatten();
            edges.filter(|edge| edge["ref"] == program).any(|edge| {
                edge["dependsOn"].as_array().into_iter().flatten().any(|name| {
                    name.as_str()
                        .is_some_and(|name| name.starts_with(&format!("pkg:cargo/{needed}@")))
                })
            })
        };
        assert!(needs("vfio-override-early", "heapless") && needs("vfio-override", "clap"));
        assert!(!needs("vfio-override-early", "clap"));
        assert_eq!(list["metadata"]["component"]["version"], "1.2.3");
        Ok(())
    }
}
