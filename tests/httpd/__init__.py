"""Tests of fastjmix.httpd."""
