/* wayland.c: Links in a window of Wayland's.
 *
 * Links draws into a canvas of ours. Before its loop sleeps, what changed is copied into one of two
 * buffers that the compositor reads, and shown; then nothing more until that was on the screen. A
 * window has a bar of its own on top: it moves the window, and its two boxes make it fill the
 * screen, or not, and close it.
 *
 * Of the interfaces here, Links' are in its links.h (struct graphics_driver), and Wayland's in
 * wayland.xml and xdg-shell.xml.
 */
#define _GNU_SOURCE             /* memfd_create */
#include "cfg.h"
#include "links.h"

#include <linux/input-event-codes.h>
#include <sys/mman.h>
#include <wayland-client.h>
#include <wayland-cursor.h>
#include <xkbcommon/xkbcommon.h>
#include "xdg-shell.h"

#define BAR 24                  /* pixels, as high as wide are its boxes */
#define BAR_COLOR 0xd8d8d8
#define SIGN_COLOR 0x202020
#define CURSOR_SIZE 24
#define AXIS_STEP 10            /* what a step of a wheel is, as wl_pointer.axis has it */

struct buffer {
	struct wl_buffer *object;
	uint32_t *pixels;
	int is_busy;            /* the compositor reads it */
	struct rect stale;      /* where it isn't as the canvas is */
};

struct view {
	struct graphics_device *device;
	struct wl_surface *surface;
	struct xdg_surface *xdg_surface;
	struct xdg_toplevel *toplevel;
	struct wl_callback *frame;      /* until what was shown last is on the screen */
	uint32_t *canvas;
	int width, height;              /* of the canvas, the bar included; 0 before there is one */
	struct buffer buffers[2];
	int asked_width, asked_height;  /* by the compositor; 0: as we like */
	int is_maximized;
};

static struct wl_display *display;
static struct wl_compositor *compositor;
static struct wl_shm *shm;
static struct wl_seat *seat;
static struct xdg_wm_base *wm_base;
static struct wl_pointer *pointer;
static struct wl_keyboard *keyboard;
static struct wl_cursor_theme *cursors;
static struct wl_surface *cursor_surface;
static struct xkb_context *xkb_context;
static struct xkb_keymap *keymap;
static struct xkb_state *keys;

static struct view *pointed, *focused;        /* where the pointer is; who hears the keys */
static int pointer_x, pointer_y, pressed = -1;  /* pressed: a button, as Links has it */
static int wheel;                               /* what is left of a step */
static int repeat_rate = 25, repeat_delay = 400;        /* a second; milliseconds */
static int repeated_key, repeated_flags;
static struct timer *repeat_timer;

extern struct graphics_driver wayland_driver;

/* ---- the canvas ---- */

static struct view *view_of(struct graphics_device *device)
{
	return device->driver_data;
}

static uint32_t *pixel(struct view *view, int x, int y)
{
	return view->canvas + (size_t)(y + BAR) * view->width + x;
}

static void show(void *data);

/* The part x1 to x2, y1 to y2 of the canvas, the bar included, has changed. */
static void changed(struct view *view, int x1, int y1, int x2, int y2)
{
	struct rect rect = { x1, x2, y1, y2 };
	int i;

	for (i = 0; i < 2; i++)
		unite_rect(&view->buffers[i].stale, &view->buffers[i].stale, &rect);
	register_bottom_half(show, view);
}

static void frame_done(void *data, struct wl_callback *frame, uint32_t when)
{
	struct view *view = data;

	wl_callback_destroy(frame);
	view->frame = NULL;
	register_bottom_half(show, view);
}

static const struct wl_callback_listener frame_listener = { frame_done };

static struct buffer *free_buffer(struct view *view)
{
	int i;

	for (i = 0; i < 2; i++)
		if (!view->buffers[i].is_busy && view->buffers[i].object)
			return view->buffers + i;
	return NULL;
}

static void show(void *data)
{
	struct view *view = data;
	struct buffer *buffer = free_buffer(view);
	struct rect part;
	int y;

	if (view->frame || !buffer || !is_rect_valid(&buffer->stale))
		return;
	part = buffer->stale;
	for (y = part.y1; y < part.y2; y++) {
		size_t start = (size_t)y * view->width + part.x1;
		memcpy(buffer->pixels + start, view->canvas + start,
			(part.x2 - part.x1) * sizeof(uint32_t));
	}
	memset(&buffer->stale, 0, sizeof(struct rect));
	wl_surface_attach(view->surface, buffer->object, 0, 0);
	wl_surface_damage(view->surface, part.x1, part.y1, part.x2 - part.x1, part.y2 - part.y1);
	view->frame = wl_surface_frame(view->surface);
	wl_callback_add_listener(view->frame, &frame_listener, view);
	wl_surface_commit(view->surface);
	buffer->is_busy = 1;
	wl_display_flush(display);
}

static void buffer_released(void *data, struct wl_buffer *object)
{
	struct view *view = data;
	int i;

	for (i = 0; i < 2; i++)
		if (view->buffers[i].object == object)
			view->buffers[i].is_busy = 0;
	register_bottom_half(show, view);
}

static const struct wl_buffer_listener buffer_listener = { buffer_released };

static void free_canvas(struct view *view)
{
	size_t size = (size_t)view->width * view->height * sizeof(uint32_t);

	if (view->canvas) {
		wl_buffer_destroy(view->buffers[0].object);
		wl_buffer_destroy(view->buffers[1].object);
		/* Both are of one piece. */
		munmap(view->buffers[0].pixels, 2 * size);
	}
	memset(view->buffers, 0, sizeof view->buffers);
	free(view->canvas);
	view->canvas = NULL;
}

static void make_canvas(struct view *view, int width, int height)
{
	size_t size = (size_t)width * height * sizeof(uint32_t);
	int file = memfd_create("links", MFD_CLOEXEC);
	struct wl_shm_pool *pool;
	uint32_t *pixels = MAP_FAILED;
	int i;

	free_canvas(view);
	view->canvas = calloc(1, size);
	if (file >= 0 && !ftruncate(file, 2 * size))
		pixels = mmap(NULL, 2 * size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	if (!view->canvas || pixels == MAP_FAILED)
		fatal_exit("there is no memory for a window of %d times %d", width, height);
	pool = wl_shm_create_pool(shm, file, 2 * size);
	for (i = 0; i < 2; i++) {
		struct buffer *buffer = view->buffers + i;
		buffer->pixels = (uint32_t *)((char *)pixels + i * size);
		buffer->object = wl_shm_pool_create_buffer(pool, i * size, width, height,
			width * sizeof(uint32_t), WL_SHM_FORMAT_XRGB8888);
		wl_buffer_add_listener(buffer->object, &buffer_listener, view);
	}
	wl_shm_pool_destroy(pool);
	close(file);
	view->width = width;
	view->height = height;
}

/* ---- the bar ---- */

static void draw_bar(struct view *view)
{
	uint32_t *row;
	int close_box = view->width - BAR, size_box = view->width - 2 * BAR;
	int x, y;

	for (y = 0; y < BAR; y++) {
		row = view->canvas + (size_t)y * view->width;
		for (x = 0; x < view->width; x++)
			row[x] = y == BAR - 1 ? SIGN_COLOR : BAR_COLOR;
	}
	if (size_box < 0)
		return;
	for (y = 7; y < BAR - 8; y++) {
		row = view->canvas + (size_t)y * view->width;
		row[close_box + y] = row[close_box + y + 1] = SIGN_COLOR;
		row[close_box + BAR - 2 - y] = row[close_box + BAR - 1 - y] = SIGN_COLOR;
		for (x = 7; x < BAR - 8; x++)
			if (x == 7 || x == BAR - 9 || y <= 8 || y == BAR - 9)
				row[size_box + x] = SIGN_COLOR;
	}
	changed(view, 0, 0, view->width, BAR);
}

static void press_bar(struct view *view, uint32_t serial)
{
	if (pointer_x >= view->width - BAR)
		view->device->keyboard_handler(view->device, KBD_CLOSE, 0);
	else if (pointer_x < view->width - 2 * BAR)
		xdg_toplevel_move(view->toplevel, seat, serial);
	else if (view->is_maximized)
		xdg_toplevel_unset_maximized(view->toplevel);
	else
		xdg_toplevel_set_maximized(view->toplevel);
}

/* ---- the window ---- */

static void surface_configured(void *data, struct xdg_surface *surface, uint32_t serial)
{
	struct view *view = data;
	struct graphics_device *device = view->device;
	int width = view->asked_width ? view->asked_width : device->size.x2;
	int height = view->asked_height ? view->asked_height : device->size.y2 + BAR;

	xdg_surface_ack_configure(surface, serial);
	if (height <= BAR)
		height = BAR + 1;
	if (width == view->width && height == view->height)
		return;
	make_canvas(view, width, height);
	draw_bar(view);
	device->size.x2 = width;
	device->size.y2 = height - BAR;
	device->clip = device->size;
	if (device->resize_handler)
		device->resize_handler(device);
	if (device->redraw_handler)
		device->redraw_handler(device, &device->size);
}

static const struct xdg_surface_listener surface_listener = { surface_configured };

static void toplevel_configured(void *data, struct xdg_toplevel *toplevel, int32_t width,
	int32_t height, struct wl_array *states)
{
	struct view *view = data;
	uint32_t *state;

	view->is_maximized = 0;
	wl_array_for_each(state, states)
		if (*state == XDG_TOPLEVEL_STATE_MAXIMIZED)
			view->is_maximized = 1;
	view->asked_width = width;
	view->asked_height = height;
}

static void toplevel_closed(void *data, struct xdg_toplevel *toplevel)
{
	struct view *view = data;

	if (view->device->keyboard_handler)
		view->device->keyboard_handler(view->device, KBD_CLOSE, 0);
}

static const struct xdg_toplevel_listener toplevel_listener = {
	toplevel_configured, toplevel_closed
};

static struct graphics_device *wayland_init_device(void)
{
	struct graphics_device *device = mem_calloc(sizeof(struct graphics_device));
	struct view *view = mem_calloc(sizeof(struct view));

	device->driver_data = view;
	device->size.x2 = 720;
	device->size.y2 = 480;
	device->clip = device->size;
	view->device = device;
	view->surface = wl_compositor_create_surface(compositor);
	wl_surface_set_user_data(view->surface, view);
	view->xdg_surface = xdg_wm_base_get_xdg_surface(wm_base, view->surface);
	xdg_surface_add_listener(view->xdg_surface, &surface_listener, view);
	view->toplevel = xdg_surface_get_toplevel(view->xdg_surface);
	xdg_toplevel_add_listener(view->toplevel, &toplevel_listener, view);
	xdg_toplevel_set_app_id(view->toplevel, "links");
	xdg_toplevel_set_maximized(view->toplevel);
	wl_surface_commit(view->surface);
	/* The compositor says how large it is. */
	while (!view->canvas)
		if (wl_display_roundtrip(display) < 0)
			fatal_exit("the compositor is gone");
	return device;
}

static void stop_repeating(void)
{
	if (repeat_timer)
		kill_timer(repeat_timer);
	repeat_timer = NULL;
}

static void wayland_shutdown_device(struct graphics_device *device)
{
	struct view *view = view_of(device);

	if (focused == view) {
		stop_repeating();
		focused = NULL;
	}
	if (pointed == view)
		pointed = NULL;
	unregister_bottom_half(show, view);
	if (view->frame)
		wl_callback_destroy(view->frame);
	free_canvas(view);
	xdg_toplevel_destroy(view->toplevel);
	xdg_surface_destroy(view->xdg_surface);
	wl_surface_destroy(view->surface);
	wl_display_flush(display);
	mem_free(view);
	mem_free(device);
}

static void wayland_set_title(struct graphics_device *device, unsigned char *title)
{
	xdg_toplevel_set_title(view_of(device)->toplevel, (char *)title);
	wl_display_flush(display);
}

/* ---- the pointer ---- */

static void clip(int *value, int low, int high)
{
	if (*value > high)
		*value = high;
	if (*value < low)
		*value = low;
}

static void tell_mouse(int event)
{
	struct rect *size = &pointed->device->size;
	int x = pointer_x, y = pointer_y - BAR;

	clip(&x, 0, size->x2 - 1);
	clip(&y, 0, size->y2 - 1);
	if (pointed->device->mouse_handler)
		pointed->device->mouse_handler(pointed->device, x, y, event);
}

static void point_at(wl_fixed_t x, wl_fixed_t y)
{
	pointer_x = wl_fixed_to_int(x);
	pointer_y = wl_fixed_to_int(y);
}

static void pointer_entered(void *data, struct wl_pointer *object, uint32_t serial,
	struct wl_surface *surface, wl_fixed_t x, wl_fixed_t y)
{
	struct wl_cursor *cursor = wl_cursor_theme_get_cursor(cursors, "left_ptr");
	struct wl_cursor_image *image;

	pointed = surface ? wl_surface_get_user_data(surface) : NULL;
	point_at(x, y);
	if (!cursor)
		return;
	image = cursor->images[0];
	wl_surface_attach(cursor_surface, wl_cursor_image_get_buffer(image), 0, 0);
	wl_surface_damage(cursor_surface, 0, 0, image->width, image->height);
	wl_surface_commit(cursor_surface);
	wl_pointer_set_cursor(object, serial, cursor_surface, image->hotspot_x, image->hotspot_y);
}

static void pointer_left(void *data, struct wl_pointer *object, uint32_t serial,
	struct wl_surface *surface)
{
	pointed = NULL;
	pressed = -1;
}

static void pointer_moved(void *data, struct wl_pointer *object, uint32_t when, wl_fixed_t x,
	wl_fixed_t y)
{
	point_at(x, y);
	if (pointed && (pressed >= 0 || pointer_y >= BAR))
		tell_mouse(pressed >= 0 ? pressed | B_DRAG : B_LEFT | B_MOVE);
}

static void pointer_pressed(void *data, struct wl_pointer *object, uint32_t serial, uint32_t when,
	uint32_t code, uint32_t state)
{
	int button = code == BTN_LEFT ? B_LEFT : code == BTN_MIDDLE ? B_MIDDLE
		: code == BTN_RIGHT ? B_RIGHT : code == BTN_SIDE ? B_FOURTH : -1;

	if (!pointed || button < 0)
		return;
	if (state != WL_POINTER_BUTTON_STATE_PRESSED) {
		if (pressed == button)
			tell_mouse(button | B_UP);
		pressed = -1;
	} else if (pointer_y >= BAR) {
		pressed = button;
		tell_mouse(button | B_DOWN);
	} else if (button == B_LEFT) {
		press_bar(pointed, serial);
	}
}

static void pointer_scrolled(void *data, struct wl_pointer *object, uint32_t when, uint32_t axis,
	wl_fixed_t value)
{
	int is_vertical = axis == WL_POINTER_AXIS_VERTICAL_SCROLL;

	wheel += wl_fixed_to_int(value);
	while (pointed && abs(wheel) >= AXIS_STEP) {
		int is_back = wheel < 0;
		wheel += is_back ? AXIS_STEP : -AXIS_STEP;
		tell_mouse(B_MOVE | (is_vertical ? is_back ? B_WHEELUP : B_WHEELDOWN
			: is_back ? B_WHEELLEFT : B_WHEELRIGHT));
	}
}

static const struct wl_pointer_listener pointer_listener = {
	pointer_entered, pointer_left, pointer_moved, pointer_pressed, pointer_scrolled
};

/* ---- the keyboard ---- */

static const struct { xkb_keysym_t symbol; int key; } special_keys[] = {
	{ XKB_KEY_Return, KBD_ENTER }, { XKB_KEY_KP_Enter, KBD_ENTER },
	{ XKB_KEY_BackSpace, KBD_BS }, { XKB_KEY_Escape, KBD_ESC },
	{ XKB_KEY_Tab, KBD_TAB }, { XKB_KEY_ISO_Left_Tab, KBD_TAB },
	{ XKB_KEY_Left, KBD_LEFT }, { XKB_KEY_KP_Left, KBD_LEFT },
	{ XKB_KEY_Right, KBD_RIGHT }, { XKB_KEY_KP_Right, KBD_RIGHT },
	{ XKB_KEY_Up, KBD_UP }, { XKB_KEY_KP_Up, KBD_UP },
	{ XKB_KEY_Down, KBD_DOWN }, { XKB_KEY_KP_Down, KBD_DOWN },
	{ XKB_KEY_Insert, KBD_INS }, { XKB_KEY_KP_Insert, KBD_INS },
	{ XKB_KEY_Delete, KBD_DEL }, { XKB_KEY_KP_Delete, KBD_DEL },
	{ XKB_KEY_Home, KBD_HOME }, { XKB_KEY_KP_Home, KBD_HOME },
	{ XKB_KEY_End, KBD_END }, { XKB_KEY_KP_End, KBD_END },
	{ XKB_KEY_Page_Up, KBD_PAGE_UP }, { XKB_KEY_KP_Page_Up, KBD_PAGE_UP },
	{ XKB_KEY_Page_Down, KBD_PAGE_DOWN }, { XKB_KEY_KP_Page_Down, KBD_PAGE_DOWN },
	{ XKB_KEY_F1, KBD_F1 }, { XKB_KEY_F2, KBD_F2 }, { XKB_KEY_F3, KBD_F3 },
	{ XKB_KEY_F4, KBD_F4 }, { XKB_KEY_F5, KBD_F5 }, { XKB_KEY_F6, KBD_F6 },
	{ XKB_KEY_F7, KBD_F7 }, { XKB_KEY_F8, KBD_F8 }, { XKB_KEY_F9, KBD_F9 },
	{ XKB_KEY_F10, KBD_F10 }, { XKB_KEY_F11, KBD_F11 }, { XKB_KEY_F12, KBD_F12 },
	{ XKB_KEY_Menu, KBD_MENU }, { XKB_KEY_XF86Back, KBD_BACK },
	{ XKB_KEY_XF86Forward, KBD_FORWARD }, { XKB_KEY_XF86Reload, KBD_RELOAD },
};

/* What Links calls the key; 0 for one that is nothing to it. */
static int links_key(xkb_keysym_t symbol)
{
	size_t i;

	for (i = 0; i < sizeof special_keys / sizeof *special_keys; i++)
		if (special_keys[i].symbol == symbol)
			return special_keys[i].key;
	return xkb_keysym_to_utf32(symbol);
}

static int is_on(const char *modifier)
{
	return xkb_state_mod_name_is_active(keys, modifier, XKB_STATE_MODS_EFFECTIVE) > 0;
}

static void tell_key(int key, int flags)
{
	if (focused && focused->device->keyboard_handler)
		focused->device->keyboard_handler(focused->device, key, flags);
}

static void repeat(void *data)
{
	repeat_timer = install_timer(1000 / repeat_rate, repeat, NULL);
	tell_key(repeated_key, repeated_flags);
}

static void keyboard_key(void *data, struct wl_keyboard *object, uint32_t serial, uint32_t when,
	uint32_t code, uint32_t state)
{
	int key, flags;

	stop_repeating();
	if (!keys || state != WL_KEYBOARD_KEY_STATE_PRESSED)
		return;
	/* X counts from 8, and xkb is X's. */
	key = links_key(xkb_state_key_get_one_sym(keys, code + 8));
	flags = (is_on(XKB_MOD_NAME_SHIFT) ? KBD_SHIFT : 0) | (is_on(XKB_MOD_NAME_CTRL) ? KBD_CTRL : 0)
		| (is_on(XKB_MOD_NAME_ALT) ? KBD_ALT : 0);
	if (!key)
		return;
	if ((flags & KBD_CTRL && (key | 0x20) == 'c') || (flags & KBD_ALT && key == KBD_F4)) {
		tell_key(KBD_CTRL_C, 0);
		return;
	}
	if (repeat_rate > 0 && xkb_keymap_key_repeats(keymap, code + 8)) {
		repeated_key = key;
		repeated_flags = flags;
		repeat_timer = install_timer(repeat_delay, repeat, NULL);
	}
	tell_key(key, flags);
}

static void keyboard_mapped(void *data, struct wl_keyboard *object, uint32_t format, int32_t file,
	uint32_t size)
{
	char *text = MAP_FAILED;

	if (format == WL_KEYBOARD_KEYMAP_FORMAT_XKB_V1)
		text = mmap(NULL, size, PROT_READ, MAP_PRIVATE, file, 0);
	close(file);
	if (text == MAP_FAILED)
		return;
	xkb_state_unref(keys);
	xkb_keymap_unref(keymap);
	keymap = xkb_keymap_new_from_string(xkb_context, text, XKB_KEYMAP_FORMAT_TEXT_V1,
		XKB_KEYMAP_COMPILE_NO_FLAGS);
	keys = keymap ? xkb_state_new(keymap) : NULL;
	munmap(text, size);
}

static void keyboard_entered(void *data, struct wl_keyboard *object, uint32_t serial,
	struct wl_surface *surface, struct wl_array *pressed_keys)
{
	focused = surface ? wl_surface_get_user_data(surface) : NULL;
}

static void keyboard_left(void *data, struct wl_keyboard *object, uint32_t serial,
	struct wl_surface *surface)
{
	stop_repeating();
	focused = NULL;
}

static void keyboard_modified(void *data, struct wl_keyboard *object, uint32_t serial,
	uint32_t pressed_now, uint32_t latched, uint32_t locked, uint32_t group)
{
	if (keys)
		xkb_state_update_mask(keys, pressed_now, latched, locked, 0, 0, group);
}

static void keyboard_repeats(void *data, struct wl_keyboard *object, int32_t rate, int32_t delay)
{
	repeat_rate = rate;
	repeat_delay = delay;
}

static const struct wl_keyboard_listener keyboard_listener = {
	keyboard_mapped, keyboard_entered, keyboard_left, keyboard_key, keyboard_modified,
	keyboard_repeats
};

/* ---- the connection ---- */

static void seat_can(void *data, struct wl_seat *object, uint32_t abilities)
{
	if (abilities & WL_SEAT_CAPABILITY_POINTER && !pointer) {
		pointer = wl_seat_get_pointer(seat);
		wl_pointer_add_listener(pointer, &pointer_listener, NULL);
	}
	if (abilities & WL_SEAT_CAPABILITY_KEYBOARD && !keyboard) {
		keyboard = wl_seat_get_keyboard(seat);
		wl_keyboard_add_listener(keyboard, &keyboard_listener, NULL);
	}
	if (!(abilities & WL_SEAT_CAPABILITY_POINTER) && pointer) {
		wl_pointer_destroy(pointer);
		pointer = NULL;
		pointed = NULL;
	}
	if (!(abilities & WL_SEAT_CAPABILITY_KEYBOARD) && keyboard) {
		wl_keyboard_destroy(keyboard);
		stop_repeating();
		keyboard = NULL;
		focused = NULL;
	}
}

static void seat_named(void *data, struct wl_seat *object, const char *name)
{
}

static const struct wl_seat_listener seat_listener = { seat_can, seat_named };

static void wm_pinged(void *data, struct xdg_wm_base *object, uint32_t serial)
{
	xdg_wm_base_pong(object, serial);
}

static const struct xdg_wm_base_listener wm_listener = { wm_pinged };

static void global_came(void *data, struct wl_registry *registry, uint32_t name,
	const char *interface, uint32_t version)
{
	if (!strcmp(interface, wl_compositor_interface.name)) {
		compositor = wl_registry_bind(registry, name, &wl_compositor_interface, 1);
	} else if (!strcmp(interface, wl_shm_interface.name)) {
		shm = wl_registry_bind(registry, name, &wl_shm_interface, 1);
	} else if (!strcmp(interface, xdg_wm_base_interface.name)) {
		wm_base = wl_registry_bind(registry, name, &xdg_wm_base_interface, 1);
		xdg_wm_base_add_listener(wm_base, &wm_listener, NULL);
	} else if (!strcmp(interface, wl_seat_interface.name) && !seat) {
		/* 4: how fast keys repeat; 5 has more events of a pointer. */
		seat = wl_registry_bind(registry, name, &wl_seat_interface, version < 4 ? version : 4);
		wl_seat_add_listener(seat, &seat_listener, NULL);
	}
}

static void global_went(void *data, struct wl_registry *registry, uint32_t name)
{
}

static const struct wl_registry_listener registry_listener = { global_came, global_went };

static void read_events(void *data)
{
	while (wl_display_prepare_read(display))
		wl_display_dispatch_pending(display);
	if (wl_display_read_events(display) < 0 || wl_display_dispatch_pending(display) < 0) {
		set_handlers(wl_display_get_fd(display), NULL, NULL, NULL);
		terminate_loop = 1;
		return;
	}
	wl_display_flush(display);
}

static unsigned char *wayland_init_driver(unsigned char *param, unsigned char *name)
{
	struct wl_registry *registry;

	display = wl_display_connect(name && *name ? (char *)name : NULL);
	if (!display)
		return stracpy(cast_uchar "No compositor answers; is there a WAYLAND_DISPLAY?\n");
	registry = wl_display_get_registry(display);
	wl_registry_add_listener(registry, &registry_listener, NULL);
	wl_display_roundtrip(display);
	if (!compositor || !shm || !wm_base) {
		wl_display_disconnect(display);
		return stracpy(cast_uchar "The compositor has no windows for programs (xdg_wm_base).\n");
	}
	xkb_context = xkb_context_new(XKB_CONTEXT_NO_FLAGS);
	cursors = wl_cursor_theme_load(NULL, CURSOR_SIZE, shm);
	cursor_surface = wl_compositor_create_surface(compositor);
	wayland_driver.depth = 4 | 24 << 3;     /* bytes, and bits, of a pixel */
	wayland_driver.get_color = get_color_fn(wayland_driver.depth);
	set_handlers(wl_display_get_fd(display), read_events, NULL, NULL);
	return NULL;
}

static void wayland_shutdown_driver(void)
{
	set_handlers(wl_display_get_fd(display), NULL, NULL, NULL);
	stop_repeating();
	wl_cursor_theme_destroy(cursors);
	xkb_state_unref(keys);
	xkb_keymap_unref(keymap);
	xkb_context_unref(xkb_context);
	wl_display_disconnect(display);
}

/* ---- drawing ---- */

static int wayland_get_empty_bitmap(struct bitmap *bitmap)
{
	bitmap->flags = NULL;
	bitmap->data = NULL;
	if (bitmap->x > MAXINT / 4 || (bitmap->y && bitmap->x * 4 > MAXINT / bitmap->y))
		return -1;
	bitmap->skip = bitmap->x * 4;
	bitmap->data = mem_alloc_mayfail(bitmap->skip * bitmap->y);
	return bitmap->data ? 0 : -1;
}

static void wayland_register_bitmap(struct bitmap *bitmap)
{
}

static void *wayland_prepare_strip(struct bitmap *bitmap, int top, int lines)
{
	return bitmap->data ? (char *)bitmap->data + bitmap->skip * top : NULL;
}

static void wayland_commit_strip(struct bitmap *bitmap, int top, int lines)
{
}

static void wayland_unregister_bitmap(struct bitmap *bitmap)
{
	if (bitmap->data)
		mem_free(bitmap->data);
}

static void wayland_draw_bitmap(struct graphics_device *dev, struct bitmap *bmp, int x, int y)
{
	struct view *view = view_of(dev);
	int x1 = x > dev->clip.x1 ? x : dev->clip.x1, y1 = y > dev->clip.y1 ? y : dev->clip.y1;
	int x2 = x + bmp->x < dev->clip.x2 ? x + bmp->x : dev->clip.x2;
	int y2 = y + bmp->y < dev->clip.y2 ? y + bmp->y : dev->clip.y2;
	int row;

	CLIP_DRAW_BITMAP
	if (!bmp->data)
		return;
	for (row = y1; row < y2; row++)
		memcpy(pixel(view, x1, row), (char *)bmp->data + bmp->skip * (row - y) + (x1 - x) * 4,
			(x2 - x1) * 4);
	changed(view, x1, y1 + BAR, x2, y2 + BAR);
}

static void wayland_fill_area(struct graphics_device *dev, int x1, int y1, int x2, int y2,
	long color)
{
	struct view *view = view_of(dev);
	int x, y;

	CLIP_FILL_AREA
	for (y = y1; y < y2; y++) {
		uint32_t *row = pixel(view, 0, y);
		for (x = x1; x < x2; x++)
			row[x] = color;
	}
	changed(view, x1, y1 + BAR, x2, y2 + BAR);
}

static void wayland_draw_hline(struct graphics_device *dev, int x1, int y, int x2, long color)
{
	wayland_fill_area(dev, x1, y, x2, y + 1, color);
}

static void wayland_draw_vline(struct graphics_device *dev, int x, int y1, int y2, long color)
{
	wayland_fill_area(dev, x, y1, x + 1, y2, color);
}

/* Move what is in the clip area by dx, dy; Links draws what this uncovers. */
static int wayland_scroll(struct graphics_device *dev, struct rect_set **set, int dx, int dy)
{
	struct view *view = view_of(dev);
	struct rect *area = &dev->clip;
	int x = area->x1 + (dx > 0 ? dx : 0), y1 = area->y1 + (dy > 0 ? dy : 0);
	int width = area->x2 - area->x1 - abs(dx), y2 = area->y2 + (dy < 0 ? dy : 0);
	int y;

	if (width <= 0 || y1 >= y2)
		return 1;
	for (y = 0; y < y2 - y1; y++) {
		int row = dy > 0 ? y2 - 1 - y : y1 + y;
		memmove(pixel(view, x, row), pixel(view, x - dx, row - dy), width * 4);
	}
	changed(view, area->x1, area->y1 + BAR, area->x2, area->y2 + BAR);
	return 1;
}

static int wayland_execute(unsigned char *command, int in_shell)
{
	return system((char *)command);
}

struct graphics_driver wayland_driver = {
	.name = cast_uchar "wayland",
	.init_driver = wayland_init_driver,
	.init_device = wayland_init_device,
	.shutdown_device = wayland_shutdown_device,
	.shutdown_driver = wayland_shutdown_driver,
	.get_empty_bitmap = wayland_get_empty_bitmap,
	.register_bitmap = wayland_register_bitmap,
	.prepare_strip = wayland_prepare_strip,
	.commit_strip = wayland_commit_strip,
	.unregister_bitmap = wayland_unregister_bitmap,
	.draw_bitmap = wayland_draw_bitmap,
	.fill_area = wayland_fill_area,
	.draw_hline = wayland_draw_hline,
	.draw_vline = wayland_draw_vline,
	.scroll = wayland_scroll,
	.set_title = wayland_set_title,
	.exec = wayland_execute,
	.flags = GD_UNICODE_KEYS | GD_NO_OS_SHELL,
};
