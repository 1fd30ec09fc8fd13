/* check.c: ask libudev for the one device that every machine has, the loopback interface. */
#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "libudev.h"

int main(void)
{
	struct udev *udev = udev_new();
	struct udev_enumerate *enumerate = udev_enumerate_new(udev);
	struct udev_monitor *monitor = udev_monitor_new_from_netlink(udev, "udev");
	struct udev_device *device, *same;
	struct udev_list_entry *found;

	udev_enumerate_add_match_subsystem(enumerate, "net");
	udev_enumerate_add_match_sysname(enumerate, "l[n-p]*");
	assert(udev_enumerate_scan_devices(enumerate) == 0);
	found = udev_enumerate_get_list_entry(enumerate);
	assert(found && !udev_list_entry_get_next(found));
	device = udev_device_new_from_syspath(udev, udev_list_entry_get_name(found));
	same = udev_device_new_from_subsystem_sysname(udev, "net", "lo");
	assert(!strcmp(udev_device_get_syspath(device), udev_device_get_syspath(same)));
	assert(!strcmp(udev_device_get_sysname(device), "lo") && !udev_device_get_sysnum(device));
	assert(!strcmp(udev_device_get_subsystem(device), "net"));
	assert(!strcmp(udev_device_get_property_value(device, "INTERFACE"), "lo"));
	assert(!strcmp(udev_device_get_sysattr_value(device, "mtu"), "65536"));
	assert(!udev_device_get_devnode(device) && !udev_device_get_devnum(device));
	assert(!udev_device_get_parent_with_subsystem_devtype(device, "pci", NULL));
	assert(!udev_device_new_from_syspath(udev, "/sys/class"));
	assert(!udev_device_new_from_syspath(udev, "/etc/passwd"));
	assert(udev_monitor_enable_receiving(monitor) == 0 && udev_monitor_get_fd(monitor) > 0);
	assert(!udev_monitor_receive_device(monitor));
	udev_monitor_unref(monitor);
	udev_device_unref(same);
	udev_device_unref(device);
	udev_enumerate_unref(enumerate);
	udev_unref(udev);
	puts("ok");
	return 0;
}
