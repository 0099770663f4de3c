#!/bin/sh
# A greylisting policy for Postfix (SMTPD_POLICY_README): the first attempt for a recipient whose name begins with grey
# is 451; grey2 means the first two.
while read -r line; do
  case $line in
    recipient=*) recipient=${line#recipient=} ;;
    '')
      action=DUNNO
      case $recipient in
        grey*)
          wanted=$(expr "$recipient" : 'grey\([0-9]*\)')
          seen=$(cat "/var/lib/greylist/$recipient" 2>/dev/null || echo 0)
          echo $((seen + 1)) >"/var/lib/greylist/$recipient"
          [ "$seen" -ge "${wanted:-1}" ] || action='451 4.7.1 Greylisted, come back later'
          ;;
      esac
      printf 'action=%s\n\n' "$action"
      ;;
  esac
done
