# SPDX-License-Identifier: MIT OR Apache-2.0
# NixOS: keeps host drivers away from PCI devices. See docs/nixos.md.
{ config, lib, ... }:

let
  cfg = config.boot.vfioOverride;
  early = "${cfg.package}/lib/vfio-override/vfio-override-early";
  hasSystemd = config.boot.initrd.systemd.enable;
in
{
  options.boot.vfioOverride = {
    rules = lib.mkOption {
      type = lib.types.listOf lib.types.str;
      default = [ ];
      example = [ "01:00.0+slot" ];
      description = "Rules of vfio.override=, as in vfio-override(7). With none nothing is changed.";
    };
    package = lib.mkOption {
      type = lib.types.package;
      description = "The package, as package.nix makes it.";
    };
    strict = lib.mkOption {
      type = lib.types.bool;
      default = !hasSystemd;
      description = ''
        Run before /init itself. The stage 1 that is a script has no earlier place: it loads boot.initrd.kernelModules
        before any command of others.
      '';
    };
  };

  config = lib.mkIf (cfg.rules != [ ]) {
    assertions = [
      {
        assertion = cfg.strict || hasSystemd;
        message = "boot.vfioOverride.strict = false takes boot.initrd.systemd.enable = true";
      }
    ];
    boot.kernelParams = [
      "vfio.override=${lib.concatStringsSep "," cfg.rules}"
    ] ++ lib.optional cfg.strict "rdinit=/vfio-override-early";
    boot.initrd = {
      availableKernelModules = [ "vfio_pci" "vfio_iommu_type1" ];
      extraFiles = lib.mkIf (!hasSystemd) { "vfio-override-early".source = early; };
      systemd = lib.mkIf hasSystemd {
        contents."/vfio-override-early".source = early;
        storePaths = [ early ];
        services.vfio-override = {
          description = "Keep host drivers away from PCI devices (vfio.override=)";
          wantedBy = [ "sysinit.target" ];
          before = [
            "systemd-modules-load.service"
            "systemd-udevd.service"
            "systemd-udev-trigger.service"
            "shutdown.target"
          ];
          conflicts = [ "shutdown.target" ];
          unitConfig.DefaultDependencies = false;
          serviceConfig = {
            Type = "oneshot";
            RemainAfterExit = true;
            ExecStart = "-${early} --modprobe";
            TimeoutStartSec = 30;
            KillMode = "process";
          };
        };
      };
    };
    environment.systemPackages = [ cfg.package ];
    services.udev.packages = [ cfg.package ];
    systemd.packages = [ cfg.package ];
    systemd.services.vfio-override.wantedBy = [ "multi-user.target" ];
  };
}
