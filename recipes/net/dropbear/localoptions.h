/* What differs from default_options.h, which explains each. */
#define DROPBEAR_SVR_PASSWORD_AUTH 0	/* keys only, whatever the command line says */
#define INETD_MODE 0
#define DROPBEAR_X11FWD 0
#define DEFAULT_PATH "/usr/local/bin:/usr/bin:/bin"
#define DEFAULT_ROOT_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
