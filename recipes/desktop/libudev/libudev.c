/* libudev.c: udev's library without udev: no daemon, no rules, no database.
 *
 * What a program asks is answered from /sys, and what is plugged in is heard from the kernel itself
 * (a netlink socket): devtmpfs has made the device's node by then. Of what udev's rules would find
 * out there is one thing, what kind of input device it is (ID_INPUT_KEYBOARD and the like). The
 * interface is udev's, as far as libinput and Weston use it. It ends the program where there is no
 * memory left.
 */
#include <dirent.h>
#include <errno.h>
#include <fnmatch.h>
#include <limits.h>
#include <linux/input.h>
#include <linux/netlink.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "libudev.h"

#define EXPORT __attribute__((visibility("default")))
#define KERNEL_GROUP 1                  /* of netlink: what the kernel itself tells */
#define MESSAGE_SIZE 8192               /* the kernel's own limit is 2048 and a path */
#define ACCESS_TRIES 20
#define ACCESS_PAUSE 10000              /* microseconds */

struct udev_list_entry {
	struct udev_list_entry *next;
	char *name, *value;
};

struct udev {
	int references;
};

struct udev_device {
	int references;
	struct udev *udev;
	struct udev_device *parent;             /* known when it was asked for */
	char *path;                             /* below /sys/devices, without links */
	struct udev_list_entry *properties;
	struct udev_list_entry *attributes;     /* those that were read */
};

struct udev_enumerate {
	int references;
	struct udev *udev;
	struct udev_list_entry *subsystems, *patterns, *found;
};

struct udev_monitor {
	int references;
	struct udev *udev;
	struct udev_list_entry *subsystems;     /* its value is a device type, or NULL for any */
	int fd;
};

static void *checked(void *memory)
{
	if (!memory)
		abort();
	return memory;
}

static char *copy(const char *text)
{
	return text ? checked(strdup(text)) : NULL;
}

/* ---- lists ---- */

/* Add NAME, sorted, or give it a new VALUE where the list has it. */
static struct udev_list_entry *put(struct udev_list_entry **list, const char *name,
	const char *value)
{
	struct udev_list_entry *entry;

	while (*list && strcmp((*list)->name, name) < 0)
		list = &(*list)->next;
	entry = *list;
	if (!entry || strcmp(entry->name, name)) {
		entry = checked(calloc(1, sizeof *entry));
		entry->name = copy(name);
		entry->next = *list;
		*list = entry;
	}
	free(entry->value);
	entry->value = copy(value);
	return entry;
}

static void clear(struct udev_list_entry **list)
{
	while (*list) {
		struct udev_list_entry *entry = *list;

		*list = entry->next;
		free(entry->name);
		free(entry->value);
		free(entry);
	}
}

static const char *get(struct udev_list_entry *list, const char *name)
{
	struct udev_list_entry *entry = udev_list_entry_get_by_name(list, name);

	return entry ? entry->value : NULL;
}

EXPORT struct udev_list_entry *udev_list_entry_get_next(struct udev_list_entry *entry)
{
	return entry ? entry->next : NULL;
}

EXPORT struct udev_list_entry *udev_list_entry_get_by_name(struct udev_list_entry *list,
	const char *name)
{
	while (list && strcmp(list->name, name))
		list = list->next;
	return list;
}

EXPORT const char *udev_list_entry_get_name(struct udev_list_entry *entry)
{
	return entry ? entry->name : NULL;
}

EXPORT const char *udev_list_entry_get_value(struct udev_list_entry *entry)
{
	return entry ? entry->value : NULL;
}

/* ---- the library ---- */

EXPORT struct udev *udev_new(void)
{
	struct udev *udev = checked(calloc(1, sizeof *udev));

	return udev_ref(udev);
}

EXPORT struct udev *udev_ref(struct udev *udev)
{
	if (udev)
		udev->references++;
	return udev;
}

EXPORT struct udev *udev_unref(struct udev *udev)
{
	if (udev && --udev->references == 0)
		free(udev);
	return NULL;
}

/* ---- /sys ---- */

/* The text of a file, without its last newline; NULL where there is none. */
static char *read_file(const char *path)
{
	char text[MESSAGE_SIZE];
	FILE *file = fopen(path, "re");
	size_t length;

	if (!file)
		return NULL;
	length = fread(text, 1, sizeof text - 1, file);
	fclose(file);
	if (length > 0 && text[length - 1] == '\n')
		length--;
	text[length] = 0;
	return copy(text);
}

/* The last word of what a link leads to, as .../subsystem -> ../../class/input. */
static char *read_link(const char *path)
{
	char target[PATH_MAX];
	ssize_t length = readlink(path, target, sizeof target - 1);

	if (length < 0)
		return NULL;
	target[length] = 0;
	return copy(strrchr(target, '/') ? strrchr(target, '/') + 1 : target);
}

static char *attribute(const char *device, const char *name)
{
	char path[PATH_MAX];
	struct stat state;

	snprintf(path, sizeof path, "%s/%s", device, name);
	if (lstat(path, &state) < 0)
		return NULL;
	if (S_ISLNK(state.st_mode))
		return read_link(path);
	return S_ISREG(state.st_mode) ? read_file(path) : NULL;
}

/* ---- kinds of input devices ---- */

#define BITS (8 * sizeof(unsigned long))

struct bits {
	unsigned long words[KEY_CNT / 32];
};

/* Bits as /sys writes them: words in hexadecimal, the highest first. */
static struct bits read_bits(const char *device, const char *name)
{
	struct bits bits = {{0}};
	char *text = attribute(device, name), *word;
	size_t count = 0;

	while (text && *text && count < sizeof bits.words / sizeof *bits.words) {
		word = strrchr(text, ' ');
		bits.words[count++] = strtoul(word ? word + 1 : text, NULL, 16);
		*(word ? word : text) = 0;
	}
	free(text);
	return bits;
}

static bool has(const struct bits *bits, unsigned int number)
{
	return bits->words[number / BITS] >> number % BITS & 1;
}

static bool has_any(const struct bits *bits, unsigned int first, unsigned int end)
{
	while (first < end && !has(bits, first))
		first++;
	return first < end;
}

static bool has_all(const struct bits *bits, unsigned int first, unsigned int end)
{
	while (first < end && has(bits, first))
		first++;
	return first == end;
}

static void set_kind(struct udev_device *device, const char *kind)
{
	put(&device->properties, "ID_INPUT", "1");
	put(&device->properties, kind, "1");
}

/* What points by absolute places: PATH is the input device's. */
static void find_absolute_kind(struct udev_device *device, const char *path,
	const struct bits *keys)
{
	struct bits properties = read_bits(path, "properties");
	bool is_direct = has(&properties, INPUT_PROP_DIRECT);

	if (has(keys, BTN_TOOL_PEN) || has(keys, BTN_STYLUS))
		set_kind(device, "ID_INPUT_TABLET");
	else if (has(keys, BTN_TOOL_FINGER) && !is_direct)
		set_kind(device, "ID_INPUT_TOUCHPAD");
	else if (has(keys, BTN_LEFT))           /* the pointer of a virtual machine */
		set_kind(device, "ID_INPUT_MOUSE");
	else if (has(keys, BTN_TOUCH) || is_direct)
		set_kind(device, "ID_INPUT_TOUCHSCREEN");
	else if (has_any(keys, BTN_JOYSTICK, BTN_DIGI))
		set_kind(device, "ID_INPUT_JOYSTICK");
}

/* An event device's parent has what it can do; the parent itself gets the same properties. */
static void find_kinds(struct udev_device *device)
{
	struct bits events, keys, absolutes, relatives, properties;
	char path[PATH_MAX], file[PATH_MAX + 16];

	snprintf(path, sizeof path, "%s", device->path);
	snprintf(file, sizeof file, "%s/capabilities", path);
	if (access(file, F_OK) < 0)
		*strrchr(path, '/') = 0;
	events = read_bits(path, "capabilities/ev");
	keys = read_bits(path, "capabilities/key");
	absolutes = read_bits(path, "capabilities/abs");
	relatives = read_bits(path, "capabilities/rel");
	properties = read_bits(path, "properties");
	if (has(&properties, INPUT_PROP_ACCELEROMETER)) {
		set_kind(device, "ID_INPUT_ACCELEROMETER");
		return;
	}
	if (has(&absolutes, ABS_X) && has(&absolutes, ABS_Y))
		find_absolute_kind(device, path, &keys);
	if (has(&relatives, REL_X) && has(&relatives, REL_Y) && has(&keys, BTN_LEFT))
		set_kind(device, "ID_INPUT_MOUSE");
	if (has(&properties, INPUT_PROP_POINTING_STICK))
		set_kind(device, "ID_INPUT_POINTINGSTICK");
	if (has_all(&keys, KEY_ESC, KEY_S))
		set_kind(device, "ID_INPUT_KEYBOARD");
	if (has_any(&keys, KEY_ESC, BTN_MISC) || has_any(&keys, KEY_OK, KEY_CNT))
		set_kind(device, "ID_INPUT_KEY");
	if (has(&events, EV_SW))
		set_kind(device, "ID_INPUT_SWITCH");
}

/* ---- devices ---- */

/* Set KEY=VALUE; a device's node is told as a path. */
static void set_property(struct udev_device *device, char *assignment)
{
	char *value = strchr(assignment, '='), path[PATH_MAX];

	if (!value)
		return;
	*value++ = 0;
	if (!strcmp(assignment, "DEVNAME") && *value != '/') {
		snprintf(path, sizeof path, "/dev/%s", value);
		value = path;
	}
	put(&device->properties, assignment, value);
}

static struct udev_device *new_device(struct udev *udev, const char *path)
{
	struct udev_device *device = checked(calloc(1, sizeof *device));

	device->references = 1;
	device->udev = udev_ref(udev);
	device->path = copy(path);
	put(&device->properties, "DEVPATH", path + strlen("/sys"));
	return device;
}

/* What /sys says of the device; of one that was unplugged the kernel's message said all. */
static void read_properties(struct udev_device *device)
{
	char *subsystem = attribute(device->path, "subsystem");
	char *text = attribute(device->path, "uevent"), *rest = NULL, *line;

	line = text ? strtok_r(text, "\n", &rest) : NULL;
	for (; line; line = strtok_r(NULL, "\n", &rest))
		set_property(device, line);
	if (subsystem)
		put(&device->properties, "SUBSYSTEM", subsystem);
	if (subsystem && !strcmp(subsystem, "input"))
		find_kinds(device);
	free(subsystem);
	free(text);
}

EXPORT struct udev_device *udev_device_new_from_syspath(struct udev *udev, const char *path)
{
	char real[PATH_MAX], file[PATH_MAX + 16];
	struct udev_device *device;

	if (!realpath(path, real) || strncmp(real, "/sys/", strlen("/sys/")))
		return NULL;
	snprintf(file, sizeof file, "%s/uevent", real);
	if (access(file, F_OK) < 0)             /* a directory, and no device's */
		return NULL;
	device = new_device(udev, real);
	read_properties(device);
	return device;
}

EXPORT struct udev_device *udev_device_new_from_devnum(struct udev *udev, char type, dev_t number)
{
	char path[PATH_MAX];

	snprintf(path, sizeof path, "/sys/dev/%s/%u:%u", type == 'b' ? "block" : "char",
		major(number), minor(number));
	return udev_device_new_from_syspath(udev, path);
}

EXPORT struct udev_device *udev_device_new_from_subsystem_sysname(struct udev *udev,
	const char *subsystem, const char *name)
{
	char path[PATH_MAX];
	struct udev_device *device;

	snprintf(path, sizeof path, "/sys/class/%s/%s", subsystem, name);
	device = udev_device_new_from_syspath(udev, path);
	if (device)
		return device;
	snprintf(path, sizeof path, "/sys/bus/%s/devices/%s", subsystem, name);
	return udev_device_new_from_syspath(udev, path);
}

EXPORT struct udev_device *udev_device_ref(struct udev_device *device)
{
	if (device)
		device->references++;
	return device;
}

EXPORT struct udev_device *udev_device_unref(struct udev_device *device)
{
	if (device && --device->references == 0) {
		udev_device_unref(device->parent);
		udev_unref(device->udev);
		clear(&device->properties);
		clear(&device->attributes);
		free(device->path);
		free(device);
	}
	return NULL;
}

EXPORT struct udev *udev_device_get_udev(struct udev_device *device)
{
	return device ? device->udev : NULL;
}

/* The nearest directory above that is a device's. It goes with DEVICE. */
EXPORT struct udev_device *udev_device_get_parent(struct udev_device *device)
{
	char path[PATH_MAX], *slash;

	if (!device || device->parent)
		return device ? device->parent : NULL;
	snprintf(path, sizeof path, "%s", device->path);
	while (!device->parent && (slash = strrchr(path, '/')) > path) {
		*slash = 0;
		device->parent = udev_device_new_from_syspath(device->udev, path);
	}
	return device->parent;
}

EXPORT struct udev_device *udev_device_get_parent_with_subsystem_devtype(struct udev_device *device,
	const char *subsystem, const char *devtype)
{
	const char *its, *type;

	while ((device = udev_device_get_parent(device))) {
		its = udev_device_get_subsystem(device);
		type = udev_device_get_devtype(device);
		if (its && !strcmp(its, subsystem) && (!devtype || (type && !strcmp(type, devtype))))
			break;
	}
	return device;
}

EXPORT const char *udev_device_get_syspath(struct udev_device *device)
{
	return device ? device->path : NULL;
}

EXPORT const char *udev_device_get_devpath(struct udev_device *device)
{
	return udev_device_get_property_value(device, "DEVPATH");
}

EXPORT const char *udev_device_get_sysname(struct udev_device *device)
{
	return device ? strrchr(device->path, '/') + 1 : NULL;
}

/* The digits at the end of its name; NULL where there are none. */
EXPORT const char *udev_device_get_sysnum(struct udev_device *device)
{
	const char *name = udev_device_get_sysname(device), *end;

	if (!name)
		return NULL;
	for (end = name + strlen(name); end > name && end[-1] >= '0' && end[-1] <= '9'; end--)
		;
	return *end ? end : NULL;
}

EXPORT const char *udev_device_get_subsystem(struct udev_device *device)
{
	return udev_device_get_property_value(device, "SUBSYSTEM");
}

EXPORT const char *udev_device_get_devtype(struct udev_device *device)
{
	return udev_device_get_property_value(device, "DEVTYPE");
}

EXPORT const char *udev_device_get_devnode(struct udev_device *device)
{
	return udev_device_get_property_value(device, "DEVNAME");
}

EXPORT const char *udev_device_get_action(struct udev_device *device)
{
	return udev_device_get_property_value(device, "ACTION");
}

EXPORT dev_t udev_device_get_devnum(struct udev_device *device)
{
	const char *first = udev_device_get_property_value(device, "MAJOR");
	const char *second = udev_device_get_property_value(device, "MINOR");

	return first && second ? makedev(strtoul(first, NULL, 10), strtoul(second, NULL, 10)) : 0;
}

/* There is no daemon that would have to look at it first. */
EXPORT int udev_device_get_is_initialized(struct udev_device *device)
{
	return device ? 1 : -EINVAL;
}

EXPORT struct udev_list_entry *udev_device_get_properties_list_entry(struct udev_device *device)
{
	return device ? device->properties : NULL;
}

EXPORT const char *udev_device_get_property_value(struct udev_device *device, const char *key)
{
	return device ? get(device->properties, key) : NULL;
}

EXPORT const char *udev_device_get_sysattr_value(struct udev_device *device, const char *name)
{
	struct udev_list_entry *entry;
	char *value;

	if (!device || !name)
		return NULL;
	entry = udev_list_entry_get_by_name(device->attributes, name);
	if (!entry && (value = attribute(device->path, name))) {
		entry = put(&device->attributes, name, value);
		free(value);
	}
	return udev_list_entry_get_value(entry);
}

/* ---- all devices ---- */

EXPORT struct udev_enumerate *udev_enumerate_new(struct udev *udev)
{
	struct udev_enumerate *enumerate = checked(calloc(1, sizeof *enumerate));

	enumerate->udev = udev_ref(udev);
	return udev_enumerate_ref(enumerate);
}

EXPORT struct udev_enumerate *udev_enumerate_ref(struct udev_enumerate *enumerate)
{
	if (enumerate)
		enumerate->references++;
	return enumerate;
}

EXPORT struct udev_enumerate *udev_enumerate_unref(struct udev_enumerate *enumerate)
{
	if (enumerate && --enumerate->references == 0) {
		clear(&enumerate->subsystems);
		clear(&enumerate->patterns);
		clear(&enumerate->found);
		udev_unref(enumerate->udev);
		free(enumerate);
	}
	return NULL;
}

EXPORT int udev_enumerate_add_match_subsystem(struct udev_enumerate *enumerate,
	const char *subsystem)
{
	if (!enumerate)
		return -EINVAL;
	if (subsystem)
		put(&enumerate->subsystems, subsystem, NULL);
	return 0;
}

EXPORT int udev_enumerate_add_match_sysname(struct udev_enumerate *enumerate, const char *pattern)
{
	if (!enumerate)
		return -EINVAL;
	if (pattern)
		put(&enumerate->patterns, pattern, NULL);
	return 0;
}

static bool matches(struct udev_list_entry *patterns, const char *name)
{
	struct udev_list_entry *entry = patterns;

	while (entry && fnmatch(entry->name, name, 0))
		entry = entry->next;
	return entry || !patterns;
}

/* Add the devices in the directory FOLDER, links to where they are. */
static void scan_devices(struct udev_enumerate *enumerate, const char *folder)
{
	DIR *directory = opendir(folder);
	struct dirent *file;
	char path[PATH_MAX], real[PATH_MAX];

	while (directory && (file = readdir(directory))) {
		if (file->d_name[0] == '.' || !matches(enumerate->patterns, file->d_name))
			continue;
		snprintf(path, sizeof path, "%s/%s/uevent", folder, file->d_name);
		if (access(path, F_OK) < 0)
			continue;
		*strrchr(path, '/') = 0;
		if (realpath(path, real))
			put(&enumerate->found, real, NULL);
	}
	if (directory)
		closedir(directory);
}

/* PARENT/NAME/BELOW is where the devices of the subsystem NAME are. */
static void scan_subsystems(struct udev_enumerate *enumerate, const char *parent, const char *below)
{
	DIR *directory = opendir(parent);
	struct dirent *file;
	char path[PATH_MAX];

	while (directory && (file = readdir(directory))) {
		if (file->d_name[0] == '.' || !matches(enumerate->subsystems, file->d_name))
			continue;
		snprintf(path, sizeof path, "%s/%s%s", parent, file->d_name, below);
		scan_devices(enumerate, path);
	}
	if (directory)
		closedir(directory);
}

EXPORT int udev_enumerate_scan_devices(struct udev_enumerate *enumerate)
{
	if (!enumerate)
		return -EINVAL;
	clear(&enumerate->found);
	scan_subsystems(enumerate, "/sys/class", "");
	scan_subsystems(enumerate, "/sys/bus", "/devices");
	return 0;
}

EXPORT struct udev_list_entry *udev_enumerate_get_list_entry(struct udev_enumerate *enumerate)
{
	return enumerate ? enumerate->found : NULL;
}

/* ---- what is plugged and unplugged ---- */

EXPORT struct udev_monitor *udev_monitor_new_from_netlink(struct udev *udev, const char *source)
{
	struct udev_monitor *monitor;
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_KOBJECT_UEVENT);

	(void)source;                           /* the daemon's or the kernel's: here the same */
	if (fd < 0)
		return NULL;
	monitor = checked(calloc(1, sizeof *monitor));
	monitor->udev = udev_ref(udev);
	monitor->fd = fd;
	return udev_monitor_ref(monitor);
}

EXPORT struct udev_monitor *udev_monitor_ref(struct udev_monitor *monitor)
{
	if (monitor)
		monitor->references++;
	return monitor;
}

EXPORT struct udev_monitor *udev_monitor_unref(struct udev_monitor *monitor)
{
	if (monitor && --monitor->references == 0) {
		close(monitor->fd);
		clear(&monitor->subsystems);
		udev_unref(monitor->udev);
		free(monitor);
	}
	return NULL;
}

EXPORT int udev_monitor_filter_add_match_subsystem_devtype(struct udev_monitor *monitor,
	const char *subsystem, const char *devtype)
{
	if (!monitor || !subsystem)
		return -EINVAL;
	put(&monitor->subsystems, subsystem, devtype);
	return 0;
}

EXPORT int udev_monitor_enable_receiving(struct udev_monitor *monitor)
{
	struct sockaddr_nl address = {.nl_family = AF_NETLINK, .nl_groups = KERNEL_GROUP};

	if (!monitor)
		return -EINVAL;
	return bind(monitor->fd, (struct sockaddr *)&address, sizeof address) < 0 ? -errno : 0;
}

EXPORT int udev_monitor_get_fd(struct udev_monitor *monitor)
{
	return monitor ? monitor->fd : -EINVAL;
}

/* The device of a message: ACTION@DEVPATH, then KEY=VALUE, each with a NUL at its end. */
static struct udev_device *parse_message(struct udev *udev, char *message, size_t length)
{
	char path[PATH_MAX], *word = message, *place = strchr(message, '@');
	struct udev_device *device;

	if (!place || place[1] != '/' || strstr(place, "/../"))
		return NULL;
	snprintf(path, sizeof path, "/sys%s", place + 1);
	device = new_device(udev, path);
	read_properties(device);
	while ((word += strlen(word) + 1) < message + length)
		set_property(device, word);
	return device;
}

static bool is_wanted(struct udev_monitor *monitor, struct udev_device *device)
{
	const char *subsystem = udev_device_get_subsystem(device);
	const char *devtype = udev_device_get_devtype(device);
	struct udev_list_entry *entry;

	if (!monitor->subsystems || !subsystem)
		return !monitor->subsystems;
	entry = udev_list_entry_get_by_name(monitor->subsystems, subsystem);
	return entry && (!entry->value || (devtype && !strcmp(entry->value, devtype)));
}

/* A node may be root's alone until mdev, who hears of it now too, has given it its group. */
static void wait_for_access(struct udev_device *device)
{
	const char *node = udev_device_get_devnode(device);
	int tries = ACCESS_TRIES;

	while (node && access(node, R_OK) < 0 && errno == EACCES && tries-- > 0)
		usleep(ACCESS_PAUSE);
}

/* The next device that is wanted; NULL where nothing more has come. Only the kernel is believed. */
EXPORT struct udev_device *udev_monitor_receive_device(struct udev_monitor *monitor)
{
	char message[MESSAGE_SIZE];
	struct sockaddr_nl sender = {0};
	socklen_t size = sizeof sender;
	struct udev_device *device;
	ssize_t length;

	if (!monitor)
		return NULL;
	while ((length = recvfrom(monitor->fd, message, sizeof message - 1, 0,
			(struct sockaddr *)&sender, &size)) >= 0) {
		message[length] = 0;
		if (sender.nl_pid != 0)
			continue;
		device = parse_message(monitor->udev, message, length);
		if (device && is_wanted(monitor, device)) {
			wait_for_access(device);
			return device;
		}
		udev_device_unref(device);
	}
	return NULL;
}
