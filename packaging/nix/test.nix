# SPDX-License-Identifier: MIT OR Apache-2.0
# What the module sets, with stand-ins for the functions of nixpkgs that it calls: `nix-instantiate --eval --strict --json`.
{ systemd ? true, rules ? [ "01:00.0+slot" "class:03" ] }:

let
  lib = {
    mkOption = option: option;
    mkIf = condition: value: if condition then value else { };
    optional = condition: value: if condition then [ value ] else [ ];
    concatStringsSep = builtins.concatStringsSep;
    types = {
      str = "str";
      bool = "bool";
      package = "package";
      listOf = type: "list of ${type}";
    };
  };
  module = import ./module.nix {
    inherit lib;
    config.boot = {
      initrd.systemd.enable = systemd;
      vfioOverride = {
        inherit rules;
        package = "/package";
        strict = module.options.boot.vfioOverride.strict.default;
      };
    };
  };
  set = module.config;
in
if rules == [ ] then set else {
  inherit (set.boot) kernelParams;
  inherit (set.boot.initrd) extraFiles systemd availableKernelModules;
  isAllowed = builtins.all (entry: entry.assertion) set.assertions;
}
